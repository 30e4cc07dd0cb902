//! Answers: JSON with a status, in the words of the reference where it has any.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use nemo_env::python_compat::json_text;
use nemo_env::python_compat::validation::{self, Issue};

/// An answer without its cookie.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    body: String,
}

impl Reply {
    /// A JSON text that is ready to be sent.
    pub(crate) fn json(body: String) -> Self {
        Self { status: StatusCode::OK, body }
    }

    /// `{"detail": ...}`.
    pub(crate) fn refused(status: StatusCode, detail: &str) -> Self {
        Self { status, body: json_text::write(&json!({ "detail": detail })) }
    }

    /// A request that is not of the form asked for.
    pub(crate) fn invalid(issues: &[Issue]) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, body: validation::detail(issues) }
    }

    pub(crate) fn not_found() -> Self {
        Self::refused(StatusCode::NOT_FOUND, "Not Found")
    }

    /// An exception that nobody caught: the reference answers with its `repr` as a JSON string.
    pub(crate) fn exception(repr: &str) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, body: json_text::write(&repr.into()) }
    }

    /// A fault of this program.
    pub(crate) fn fault() -> Self {
        Self::refused(StatusCode::INTERNAL_SERVER_ERROR, "Internal error: the request was given up. Please report it.")
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let content_type = HeaderValue::from_static("application/json");
        (self.status, [(CONTENT_TYPE, content_type)], self.body).into_response()
    }
}
