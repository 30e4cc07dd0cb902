//! Files of the hub, asked of a server that behaves like it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake_server::{FakeServer, Request, Response};
use nemo_hub::{Backoff, Hub, HubError, HubSettings, Kind, Listener, Origin, Repository, Retry};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const CONTENTS: &[u8] = b"{\"id\": 1}\n{\"id\": 2}\n{\"id\": 3}\n";
pub const TOKEN: &str = "hf_of_a_test";

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hub's answer to a request for the file, whole or from a byte on.
fn serve(request: &Request, contents: &[u8], etag: &str) -> Response {
    if request.path != "/datasets/some/tasks/resolve/main/train.jsonl" {
        return Response::status(404);
    }
    let start = request.range_start().unwrap_or(0);
    if start >= contents.len() {
        return Response::status(416);
    }
    let body = if request.is_for_metadata() { contents[..1].to_vec() } else { contents[start..].to_vec() };
    let headers = vec![
        ("etag", format!("\"{etag}\"")),
        ("x-repo-commit", COMMIT.to_owned()),
        ("content-range", format!("bytes {start}-{}/{}", start + body.len() - 1, contents.len())),
    ];
    Response { status: 206, headers, body, ..Response::default() }
}

pub fn serve_right(request: &Request) -> Response {
    serve(request, CONTENTS, &sha256(CONTENTS))
}

/// Remembers how long it was asked to wait, and does not; and what it was told.
#[derive(Default)]
pub struct Pauses(pub Mutex<Vec<u64>>, pub Mutex<Vec<String>>);

impl Listener for Pauses {
    fn pause(&self, retry: &Retry) {
        self.0.lock().unwrap().push(retry.wait.as_secs());
    }

    fn progress(&self, _: &str, _: u64, _: u64) {}

    fn note(&self, text: &str) {
        self.1.lock().unwrap().push(text.to_owned());
    }
}

pub struct Place {
    _folder: TempDir,
    pub settings: HubSettings,
    pub pauses: Arc<Pauses>,
}

impl Place {
    pub fn new(endpoint: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (cache, token) = (folder.path().join("hub"), Some(TOKEN.to_owned()));
        let timeout = Duration::from_millis(300);
        let settings = HubSettings { endpoint, cache, token, is_offline: false, timeout };
        Self { _folder: folder, settings, pauses: Arc::default() }
    }

    pub fn hub(&self) -> Hub {
        let backoff = Backoff { max_attempts: 4, ..Backoff::default() };
        Hub { settings: self.settings.clone(), backoff, listener: self.pauses.clone() }
    }

    pub fn cache(&self) -> &Path {
        &self.settings.cache
    }

    pub fn get(&self, name: &str) -> Result<(PathBuf, Origin), HubError> {
        let revision = "main".to_owned();
        self.hub().file(&Repository { kind: Kind::DataSet, name: "some/tasks".to_owned(), revision }, name)
    }

    pub fn in_cache(&self, path: &str) -> PathBuf {
        self.cache().join("datasets--some--tasks").join(path)
    }
}

#[test]
fn a_file_is_downloaded_once_and_lies_where_python_looks_for_it() {
    let server = FakeServer::start(serve_right);
    let place = Place::new(server.url());
    let (path, origin) = place.get("train.jsonl").unwrap();
    assert_eq!((std::fs::read(&path).unwrap().as_slice(), origin), (CONTENTS, Origin::Downloaded));
    assert_eq!(path, place.in_cache(&format!("snapshots/{COMMIT}/train.jsonl")));
    let blob = format!("../../blobs/{}", sha256(CONTENTS));
    assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(&blob));
    assert_eq!(std::fs::read_to_string(place.in_cache("refs/main")).unwrap(), COMMIT);
    assert!(server.requests().iter().all(|request| request.headers["authorization"] == format!("Bearer {TOKEN}")));

    let num_requests = server.requests().len();
    assert_eq!(place.get("train.jsonl").unwrap(), (path, Origin::Cached));
    let new: Vec<Request> = server.requests().split_off(num_requests);
    assert!(!new.is_empty() && new.iter().all(Request::is_for_metadata), "{new:?}");
    assert!(place.pauses.0.lock().unwrap().is_empty());
}

#[test]
fn a_busy_hub_is_asked_again_later() {
    let mut count = 0;
    let server = FakeServer::start(move |request| {
        count += 1;
        // Busy at first, and once more when the contents are asked for.
        if matches!(count, 1 | 2 | 4) { Response::status(429) } else { serve_right(request) }
    });
    let place = Place::new(server.url());
    let (path, _) = place.get("train.jsonl").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), CONTENTS);
    assert_eq!(*place.pauses.0.lock().unwrap(), [1, 2, 1]);
}

#[test]
fn a_busy_hub_says_how_long_it_wants_to_be_left_alone() {
    let date = "Wed, 21 Oct 2015 07:28:00 GMT".to_owned();
    let mut answers = vec![
        vec![("retry-after", "7".to_owned())],
        vec![("date", date), ("retry-after", "Wed, 21 Oct 2015 07:28:20 GMT".to_owned())],
        // More than we are willing to wait.
        vec![("retry-after", "86400".to_owned())],
    ];
    answers.reverse();
    let server = FakeServer::start(move |request| match answers.pop() {
        Some(headers) => Response { headers, ..Response::status(429) },
        None => serve_right(request),
    });
    let place = Place::new(server.url());
    place.get("train.jsonl").unwrap();
    assert_eq!(*place.pauses.0.lock().unwrap(), [7, 20, 60]);
}

#[test]
fn a_hub_that_stays_busy_is_given_up() {
    let server = FakeServer::start(|_| Response::status(429));
    let place = Place::new(server.url());
    let error = place.get("train.jsonl").unwrap_err();
    assert!(matches!(error, HubError::Status { status: 429, attempts: 4, .. }), "{error:?}");
    assert_eq!((server.requests().len(), place.pauses.0.lock().unwrap().as_slice()), (4, [1, 2, 4].as_slice()));
}

#[test]
fn a_download_that_broke_off_goes_on_where_it_stopped() {
    let mut is_first = true;
    let server = FakeServer::start(move |request| {
        let mut response = serve_right(request);
        if !request.is_for_metadata() && std::mem::take(&mut is_first) {
            response.cut_at = Some(11);
        }
        response
    });
    let place = Place::new(server.url());
    let (path, _) = place.get("train.jsonl").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), CONTENTS);
    let starts: Vec<Option<usize>> =
        server.requests().iter().filter(|request| !request.is_for_metadata()).map(Request::range_start).collect();
    assert_eq!(starts, [None, Some(11)]);
}

#[test]
fn what_an_interrupted_run_left_is_used() {
    let server = FakeServer::start(serve_right);
    // The beginning, the whole, and more than the whole of the file.
    for (left, starts) in [(&CONTENTS[..5], vec![5]), (CONTENTS, vec![]), (&[b'x'; 99][..], vec![])] {
        let place = Place::new(server.url());
        std::fs::create_dir_all(place.in_cache("blobs")).unwrap();
        std::fs::write(place.in_cache(&format!("blobs/{}.incomplete", sha256(CONTENTS))), left).unwrap();
        let num_requests = server.requests().len();
        let (path, _) = place.get("train.jsonl").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), CONTENTS);
        let asked: Vec<usize> = server.requests()[num_requests..]
            .iter()
            .filter(|request| !request.is_for_metadata())
            .filter_map(Request::range_start)
            .collect();
        assert_eq!(asked, starts);
    }
}

#[test]
fn a_damaged_file_does_not_stay() {
    let server = FakeServer::start(|request| serve(request, b"something else\n", &sha256(CONTENTS)));
    let place = Place::new(server.url());
    let error = place.get("train.jsonl").unwrap_err();
    let HubError::Checksum { found, expected, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((found, expected), (&sha256(b"something else\n"), &sha256(CONTENTS)));
    assert!(!place.in_cache(&format!("blobs/{}", sha256(CONTENTS))).exists());
    assert!(!place.in_cache(&format!("snapshots/{COMMIT}/train.jsonl")).exists());
}

#[test]
fn refusals_say_what_to_do_and_are_not_repeated() {
    for (status, words) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "check the name")] {
        let server = FakeServer::start(move |_| Response::status(status));
        let mut place = Place::new(server.url());
        place.settings.token = place.settings.token.filter(|_| status == 401);
        let error = place.get("train.jsonl").unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(&status.to_string()), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let server = FakeServer::start(serve_right);
    let mut place = Place::new(server.url());
    place.settings.is_offline = true;
    let error = place.get("train.jsonl").unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }) && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(server.requests().is_empty());
    place.settings.is_offline = false;
    let (path, _) = place.get("train.jsonl").unwrap();
    let num_requests = server.requests().len();
    place.settings.is_offline = true;
    assert_eq!(place.get("train.jsonl").unwrap(), (path, Origin::CachedUnasked));
    assert!(matches!(place.get("other.jsonl"), Err(HubError::Offline { .. })));
    assert_eq!(server.requests().len(), num_requests);
}

#[test]
fn without_a_connection_the_cache_has_to_do() {
    let server = FakeServer::start(serve_right);
    let place = Place::new(server.url());
    let (path, _) = place.get("train.jsonl").unwrap();
    drop(server);
    assert_eq!(place.get("train.jsonl").unwrap(), (path, Origin::CachedUnasked));
    assert_eq!(*place.pauses.0.lock().unwrap(), [1, 2, 4]);
    let error = place.get("other.jsonl").unwrap_err().to_string();
    assert!(error.contains("HF_ENDPOINT"), "{error}");
}
