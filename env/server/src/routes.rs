//! What each address answers.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::aggregate;
use crate::close_session;
use crate::config::ServerConfig;
use crate::long_work::LongWork;
use crate::metrics::{Endpoint, Metrics};
use crate::openapi;
use crate::reply::Reply;
use crate::request_body::{Object, RequestBody};
use crate::session_cookie::{CookieJar, Visitor};
use crate::session_store::SessionStore;
use crate::verify::VerifyRequest;
use nemo_env::Offices;
use nemo_env::python_compat::validation::Issue;
use nemo_env::python_compat::{Value, json_text};
use nemo_env::{ToolResult, Workplace};

/// Requests with a longer body are worked on beside the threads that serve connections.
const INLINE_BYTES: usize = 64 << 10;

type Entries = Vec<(Arc<str>, Value)>;

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) config: ServerConfig,
    pub(crate) offices: Offices,
    /// The office of records that name none.
    pub(crate) workplace: Option<Arc<Workplace>>,
    /// Offices that records have named.
    pub(crate) named_offices: Mutex<HashSet<String>>,
    pub(crate) cookies: CookieJar,
    pub(crate) sessions: SessionStore,
    /// Places for long bodies that are worked on.
    pub(crate) work_bytes: Arc<Semaphore>,
    pub(crate) long_work: LongWork,
    /// Gives memory back that the calling thread has freed and keeps.
    pub(crate) give_back: OnceLock<fn()>,
    pub(crate) metrics: Metrics,
}

/// Everything the server answers.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    // A tool may have any name, so addresses that are read with GET stand for tools when posted to.
    Router::new()
        // `get` alone answers HEAD as well, which the reference does for its description only.
        .route("/", get(status).head(method_not_allowed).post(not_found))
        .route("/health", get(health).post(call_tool))
        .route("/metrics", get(render_metrics).post(call_tool))
        .route("/openapi.json", get(openapi).post(call_tool))
        .route("/reverify_mode", get(reverify_mode).head(method_not_allowed).post(call_tool))
        .route("/seed_session", post(seed_session))
        .route("/verify", post(verify))
        .route("/close_session", post(close_session))
        .route("/aggregate_metrics", post(aggregate_metrics))
        .route("/{tool}", post(call_tool))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&shared), with_session))
        .with_state(shared)
}

/// Around every request: who asks, how long it may take, the cookie of the answer, the counters.
async fn with_session(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let endpoint = Endpoint::of(request.method(), request.uri().path());
    let visitor = shared.cookies.visitor(request.headers());
    let set_cookie = visitor.set_cookie.clone();
    request.extensions_mut().insert(visitor);
    let limit = shared.config.request_timeout;
    let mut response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("The request took longer than {} s", limit.as_secs_f64());
            Reply::refused(StatusCode::REQUEST_TIMEOUT, &detail).into_response()
        }
    };
    response.headers_mut().insert(SET_COOKIE, set_cookie);
    shared.metrics.answered(endpoint, response.status(), start.elapsed());
    response
}

async fn not_found() -> Reply {
    Reply::not_found()
}

async fn method_not_allowed() -> Reply {
    Reply::refused(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

async fn status() -> Reply {
    Reply::json("{\"status\":\"ok\"}".into())
}

async fn health(State(shared): State<Arc<Shared>>) -> Reply {
    let num_sessions = shared.sessions.counts().num_sessions;
    Reply::json(json_text::write(&json!({ "status": "ok", "sessions": num_sessions })))
}

async fn reverify_mode() -> Reply {
    Reply::json("\"unknown\"".into())
}

async fn render_metrics(State(shared): State<Arc<Shared>>) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, content_type)], shared.metrics.render(&shared.sessions.counts())).into_response()
}

async fn openapi(State(shared): State<Arc<Shared>>) -> Reply {
    Reply::json(json_text::write(&openapi::document(&shared.config.tools)))
}

async fn seed_session(State(shared): State<Arc<Shared>>, request: Request) -> Reply {
    let work = async {
        let visitor = visitor(&request)?;
        let body = RequestBody::read(request, shared.config.max_body_bytes).await?;
        let office = shared.read(body, |entries| Ok(office_entry(&entries))).await?;
        let workplace = shared.workplace(office).await?;
        shared.sessions.seed(visitor.id, workplace.session(), Instant::now());
        Ok(Reply::json("{}".into()))
    };
    either(work.await)
}

async fn call_tool(State(shared): State<Arc<Shared>>, request: Request) -> Reply {
    let work = async {
        let visitor = visitor(&request)?;
        let name = tool_name(request.uri().path()).ok_or_else(Reply::not_found)?;
        let body = RequestBody::read(request, shared.config.max_call_bytes).await?;
        let num_bytes = body.len();
        let arguments = body.object()?;
        let Some(slot) = shared.sessions.open(visitor.id, Instant::now()) else {
            let detail = "Session not initialized. Please call seed_session first.";
            return Err(Reply::refused(StatusCode::BAD_REQUEST, detail));
        };
        let arguments = match arguments {
            Object::Entries(entries) => entries,
            // The model has to be told, so that it can do better.
            Object::Unrepresentable(reason) => return Ok(Reply::json(ToolResult::failed(&name, &reason).body())),
        };
        let mut session = Arc::clone(&slot).lock_owned().await;
        let max_bytes = shared.config.max_session_bytes;
        let called = shared.work(num_bytes, move || {
            let answer = session.call_within(max_bytes, &name, arguments).map(|result| result.body());
            (answer, session.added_bytes())
        });
        // Half a call may have been done: nothing can be built on it.
        let (answer, held_bytes) = called.await.inspect_err(|_| shared.sessions.remove(visitor.id))?;
        shared.sessions.charge(visitor.id, &slot, held_bytes);
        answer.map(Reply::json).ok_or_else(|| {
            let detail = "The calls of this session have filled it. Please call seed_session to start anew.";
            Reply::refused(StatusCode::INSUFFICIENT_STORAGE, detail)
        })
    };
    either(work.await)
}

async fn verify(State(shared): State<Arc<Shared>>, request: Request) -> Reply {
    let work = async {
        let visitor = visitor(&request)?;
        let body = RequestBody::read(request, shared.config.max_body_bytes).await?;
        let num_bytes = body.len();
        let place = shared.place(num_bytes).await?;
        // A request that is wrong in its form is told so whatever office it names.
        let read = |entries: Entries| {
            let office = office_entry(&entries);
            let request = VerifyRequest::from_entries(entries).map_err(|issues| Reply::invalid(&issues))?;
            // The place goes where the memory goes: a request that runs out of time does not stop its work.
            Ok((request, office, place))
        };
        let (request, office, place) = shared.read(body, read).await?;
        let workplace = shared.workplace(office).await?;
        // Scoring ends the session, whatever comes of it.
        shared.sessions.remove(visitor.id);
        let answer = move || {
            let answer = request.answer(&workplace);
            drop(place);
            answer
        };
        let (reply, earned) = shared.work(num_bytes, answer).await?;
        if let Some(earned) = earned {
            shared.metrics.verified(earned);
        }
        Ok(reply)
    };
    either(work.await)
}

async fn close_session(State(shared): State<Arc<Shared>>, request: Request) -> Reply {
    let work = async {
        let visitor = visitor(&request)?;
        let body = RequestBody::read(request, shared.config.max_call_bytes).await?;
        let reply = shared.read(body, close_session::answer).await?;
        shared.sessions.remove(visitor.id);
        Ok(reply)
    };
    either(work.await)
}

async fn aggregate_metrics(State(shared): State<Arc<Shared>>, request: Request) -> Reply {
    let work = async {
        let body = RequestBody::read(request, shared.config.max_body_bytes).await?;
        let place = shared.place(body.len()).await?;
        let answer = move |entries: Entries| {
            let answer = aggregate::answer(&entries);
            drop((entries, place));
            Ok(answer)
        };
        shared.read(body, answer).await
    };
    either(work.await)
}

fn either(result: Result<Reply, Reply>) -> Reply {
    result.unwrap_or_else(|refusal| refusal)
}

fn visitor(request: &Request) -> Result<Visitor, Reply> {
    request.extensions().get::<Visitor>().cloned().ok_or_else(Reply::fault)
}

/// The tool that a path names: one part, decoded. Text that is not UTF-8 gets replacement characters.
fn tool_name(path: &str) -> Option<String> {
    let name = percent_decode_str(path.strip_prefix('/')?).decode_utf8_lossy().into_owned();
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The key of a record that names its office.
const OFFICE: &str = "office";

/// What a record says of its office, if it says anything.
fn office_entry(entries: &[(Arc<str>, Value)]) -> Option<Value> {
    entries.iter().find_map(|(key, value)| (&**key == OFFICE && !value.is_null()).then(|| value.clone()))
}

/// Bytes of long bodies that are worked on at the same time. What is made of a body may be many times its size.
const WORK_BYTES: usize = 64 << 20;

/// Places for long bodies, one for each KiB.
pub(crate) fn work_places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WORK_BYTES >> 10))
}

impl Shared {
    /// The office that a record names, or the default one.
    async fn workplace(self: &Arc<Self>, named: Option<Value>) -> Result<Arc<Workplace>, Reply> {
        let wrong = |value: &Value, message: &str| {
            Reply::invalid(&[Issue::new("value_error", &[OFFICE.into()], message, value)])
        };
        let Some(value) = &named else {
            let message = "The record names no office and the server has none for such records (--tables, --office)";
            return self.workplace.clone().ok_or_else(|| wrong(&Value::None, message));
        };
        let name = value.as_str().ok_or_else(|| wrong(value, "Input should be the name of an office"))?.to_owned();
        if !self.may_use_office(&name) {
            let message = format!("No further office: {} are in use (--max-offices)", self.config.max_offices);
            return Err(wrong(value, &message));
        }
        // Making an office takes a while.
        let shared = Arc::clone(self);
        let sought = name.clone();
        let found = tokio::task::spawn_blocking(move || shared.offices.office(&sought)).await;
        match found {
            Ok(Ok(Some(workplace))) => Ok(workplace),
            Ok(Ok(None)) => {
                self.forget_office(&name);
                let message = "Unknown office: expected `office-` and a number, or a folder below `offices/`";
                Err(wrong(value, message))
            }
            Ok(Err(error)) => {
                self.forget_office(&name);
                // The error names files, which are none of the client's business.
                tracing::error!("{error}");
                let detail = "The tables of this office cannot be read; the server's log says why";
                Err(Reply::refused(StatusCode::INTERNAL_SERVER_ERROR, detail))
            }
            Err(_) => Err(self.fault()),
        }
    }

    fn may_use_office(&self, name: &str) -> bool {
        let mut named = self.named_offices.lock().unwrap_or_else(PoisonError::into_inner);
        named.contains(name) || (named.len() < self.config.max_offices && named.insert(name.to_owned()))
    }

    fn forget_office(&self, name: &str) {
        self.named_offices.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Waits until a body of `num_bytes` may be worked on; its memory is only free again when the place is given up.
    async fn place(&self, num_bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Reply> {
        if num_bytes <= INLINE_BYTES {
            return Ok(None);
        }
        // The cap makes the conversion exact and lets a body through that is larger than all places together.
        self.long_work.note();
        let places = num_bytes.div_ceil(1 << 10).min(WORK_BYTES >> 10) as u32;
        Arc::clone(&self.work_bytes).acquire_many_owned(places).await.map(Some).map_err(|_| self.fault())
    }

    /// Reads a body and does something with its entries, where [`Shared::work`] does it.
    async fn read<T: Send + 'static>(
        &self,
        body: RequestBody,
        then: impl FnOnce(Entries) -> Result<T, Reply> + Send + 'static,
    ) -> Result<T, Reply> {
        self.work(body.len(), move || body.entries().and_then(then)).await?
    }

    fn fault(&self) -> Reply {
        self.metrics.fault();
        Reply::fault()
    }

    /// Does the work of a request whose body has `num_bytes`: at once if it is short, else beside the threads that
    /// serve connections, so that nobody waits for it. A panic ends this request only.
    async fn work<T: Send + 'static>(
        &self,
        num_bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Reply> {
        let guarded = move || catch_unwind(AssertUnwindSafe(work)).ok();
        let done = if num_bytes <= INLINE_BYTES {
            guarded()
        } else {
            let give_back = self.give_back.get().copied();
            let and_give_back = move || {
                let done = guarded();
                // Only the thread that has freed memory can give it back, and it may be busy again at once.
                if let Some(give_back) = give_back {
                    give_back();
                }
                done
            };
            tokio::task::spawn_blocking(and_give_back).await.ok().flatten()
        };
        done.ok_or_else(|| self.fault())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_names_are_one_decoded_part_of_the_path() {
        for (path, expected) in [
            ("/email_search_emails", Some("email_search_emails")),
            ("/%C3%A9%20x", Some("é x")),
            ("/%ff", Some("\u{fffd}")),
            ("/%2", Some("%2")),
            ("/a%2Fb", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(tool_name(path).as_deref(), expected, "{path}");
        }
    }
}
