//! The body of a request: read up to a limit, then understood as the reference's web framework does.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::encoding::{self, Undecodable};
use crate::reply::Reply;
use nemo_env::python_compat::Value;
use nemo_env::python_compat::json::{self, JsonError};
use nemo_env::python_compat::validation::Issue;

/// A body as it was sent.
pub(crate) struct RequestBody {
    bytes: Bytes,
    is_json: bool,
}

/// A body as an object.
pub(crate) enum Object {
    Entries(Vec<(Arc<str>, Value)>),
    /// JSON with a value that nothing here can hold; the reason.
    Unrepresentable(String),
}

/// Read beyond the limit before a body is refused.
const MAX_DISCARDED_BYTES: usize = 4 << 20;

/// How long that may take.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(1);

const UNREADABLE: &str = "There was an error parsing the body";

impl RequestBody {
    /// Reads a body of at most `max_bytes`.
    pub(crate) async fn read(request: Request, max_bytes: usize) -> Result<Self, Reply> {
        let too_large = || {
            let detail = format!("The body is larger than {max_bytes} bytes");
            Reply::refused(StatusCode::PAYLOAD_TOO_LARGE, &detail)
        };
        let is_json = says_json(request.headers());
        let mut body = request.into_body();
        // A client that is told while it still sends may lose the answer, so a little more is read and thrown away;
        // what says beforehand that it is far too large is not read at all.
        let max_read = max_bytes.saturating_add(MAX_DISCARDED_BYTES);
        let announced = http_body::Body::size_hint(&body).lower();
        if announced > max_read as u64 {
            return Err(too_large());
        }
        let mut is_too_large = announced > max_bytes as u64;
        // Nearly every body comes in one piece; the pieces of others are put together.
        let mut bytes = Bytes::new();
        let mut joined = Vec::new();
        let mut num_read = 0;
        let mut deadline = None;
        while num_read <= max_read {
            let frame = if is_too_large {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + MAX_DISCARD_TIME);
                let Ok(frame) = timeout_at(deadline, body.frame()).await else { break };
                frame
            } else {
                body.frame().await
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Reply::refused(StatusCode::BAD_REQUEST, UNREADABLE))?;
            let Ok(data) = frame.into_data() else { continue };
            num_read += data.len();
            is_too_large |= num_read > max_bytes;
            if is_too_large {
                (bytes, joined) = (Bytes::new(), Vec::new());
            } else if num_read == data.len() {
                bytes = data;
            } else {
                joined.extend_from_slice(&std::mem::take(&mut bytes));
                joined.extend_from_slice(&data);
            }
        }
        if is_too_large {
            return Err(too_large());
        }
        Ok(Self { bytes: if joined.is_empty() { bytes } else { joined.into() }, is_json })
    }

    /// Bytes of the text.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The body as an object.
    pub(crate) fn object(&self) -> Result<Object, Reply> {
        let refuse = |issue: Issue| Reply::invalid(&[issue]);
        if self.bytes.is_empty() {
            return Err(refuse(Issue::missing(&[], &Value::None)));
        }
        if !self.is_json {
            let text = String::from_utf8_lossy(&self.bytes).into_owned();
            return Err(refuse(Issue::object_expected(&[], &text.into())));
        }
        let text = match encoding::decode(&self.bytes) {
            Ok(text) => text,
            Err(Undecodable::Malformed) => return Err(Reply::refused(StatusCode::BAD_REQUEST, UNREADABLE)),
            Err(Undecodable::Surrogate(code)) => {
                return Ok(Object::Unrepresentable(format!("unpaired surrogate \\u{code:04x}")));
            }
        };
        match json::parse(&text) {
            Ok(Value::Dict(entries)) => Ok(Object::Entries(Arc::unwrap_or_clone(entries))),
            Ok(other) => Err(refuse(Issue::object_expected(&[], &other))),
            Err(JsonError::Syntax(error)) => Err(refuse(Issue::not_json(&error.message, error.position))),
            Err(JsonError::Unrepresentable(reason)) => Ok(Object::Unrepresentable(reason)),
        }
    }

    /// [`RequestBody::object`] where there is no model to be told of a value that cannot be held.
    pub(crate) fn entries(&self) -> Result<Vec<(Arc<str>, Value)>, Reply> {
        match self.object()? {
            Object::Entries(entries) => Ok(entries),
            Object::Unrepresentable(reason) => {
                Err(Reply::refused(StatusCode::BAD_REQUEST, &format!("{UNREADABLE}: {reason}")))
            }
        }
    }
}

/// Whether the body is to be read as JSON: its type says so, or nothing.
fn says_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let Ok(content_type) = content_type.to_str() else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.strip_prefix("application/").is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    async fn read(content_type: Option<&str>, body: &'static [u8]) -> RequestBody {
        let mut request = Request::new(Body::from(body));
        if let Some(content_type) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, content_type.parse().unwrap());
        }
        RequestBody::read(request, 100).await.ok().unwrap()
    }

    fn shown(body: &RequestBody) -> String {
        match body.object() {
            Ok(Object::Entries(entries)) => Value::Dict(entries.into()).repr(),
            Ok(Object::Unrepresentable(reason)) => format!("unrepresentable: {reason}"),
            Err(reply) => format!("refused with {}", reply.status.as_u16()),
        }
    }

    #[tokio::test]
    async fn only_json_objects_are_accepted() {
        for (content_type, body, expected) in [
            (Some("application/json"), "{\"a\": 1}", "{'a': 1}"),
            (Some("application/json; charset=utf-8"), "{}", "{}"),
            (Some("application/problem+JSON"), "{}", "{}"),
            (None, "\u{feff}{}", "{}"),
            (Some("text/plain"), "{}", "refused with 422"),
            (Some("application/x-www-form-urlencoded"), "{}", "refused with 422"),
            (None, "", "refused with 422"),
            (None, "[]", "refused with 422"),
            (None, "null", "refused with 422"),
            (None, "{", "refused with 422"),
            (None, "{\"a\": \"\\ud800\"}", "unrepresentable: unpaired surrogate \\ud800"),
        ] {
            assert_eq!(shown(&read(content_type, body.as_bytes()).await), expected, "{content_type:?} {body}");
        }
        for (body, expected) in [
            (&b"{\"a\": \"\xff\"}"[..], "refused with 400"),
            (b"{\0\"\0a\0\"\0:\x001\0}\0", "{'a': 1}"),
            (b"\xff\xfe{", "refused with 400"),
            (b"\xff\xfe\0\xd8", "unrepresentable: unpaired surrogate \\ud800"),
        ] {
            assert_eq!(shown(&read(None, body).await), expected, "{body:?}");
        }
    }

    #[tokio::test]
    async fn pieces_are_put_together() {
        let body = RequestBody::read(Request::new(Body::from_stream_of(100)), 100).await.ok().unwrap();
        assert_eq!(body.len(), 100);
        assert!(body.bytes.iter().all(|&byte| byte == b' '));
    }

    #[tokio::test]
    async fn large_bodies_are_refused() {
        for body in [Body::from(vec![b' '; 101]), Body::from_stream_of(101), Body::from(vec![b' '; 5 << 20])] {
            let reply = RequestBody::read(Request::new(body), 100).await.err().unwrap();
            assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
        }
    }

    /// A body that does not say how long it is.
    trait Unannounced {
        fn from_stream_of(num_bytes: usize) -> Self;
    }

    impl Unannounced for Body {
        fn from_stream_of(num_bytes: usize) -> Self {
            struct Chunks(usize);
            impl http_body::Body for Chunks {
                type Data = Bytes;
                type Error = std::convert::Infallible;

                fn poll_frame(
                    mut self: std::pin::Pin<&mut Self>,
                    _: &mut std::task::Context<'_>,
                ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
                    if self.0 == 0 {
                        return std::task::Poll::Ready(None);
                    }
                    self.0 -= 1;
                    std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(b" ")))))
                }
            }
            Self::new(Chunks(num_bytes))
        }
    }
}
