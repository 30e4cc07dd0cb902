//! Hubs that send us elsewhere, are silent, or name things in their own way.

use std::time::{Duration, Instant};

use nemo_hub::HubError;

use crate::data_sets::{COMMIT, CONTENTS, Place, TOKEN, serve_right, sha256};
use crate::fake_server::{FakeServer, Request, Response};

fn redirect(status: u16, location: &str) -> Response {
    Response { headers: vec![("location", location.to_owned())], ..Response::status(status) }
}

/// The address under another name of the same machine.
fn other_host(server: &FakeServer) -> String {
    server.url().replace("127.0.0.1", "localhost")
}

/// A store that refuses whoever shows a token.
fn strict_store() -> FakeServer {
    FakeServer::start(|request| match request.headers.contains_key("authorization") {
        true => Response::status(400),
        false => serve_right(&Request { path: request.path.replace("/store/", "/"), ..request.clone() }),
    })
}

#[test]
fn the_token_stays_with_the_hub_and_its_redirect_says_it_all() {
    let store = strict_store();
    let location = format!("{}/store/datasets/some/tasks/resolve/main/train.jsonl", other_host(&store));
    let hub = FakeServer::start(move |_| {
        let mut response = redirect(302, &location);
        response.headers.push(("x-linked-etag", format!("\"{}\"", sha256(CONTENTS))));
        response.headers.push(("x-linked-size", CONTENTS.len().to_string()));
        response.headers.push(("x-repo-commit", COMMIT.to_owned()));
        response
    });
    let place = Place::new(hub.url());
    let (path, _) = place.get("train.jsonl").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), CONTENTS);
    assert!(hub.requests().iter().all(|request| request.headers["authorization"] == format!("Bearer {TOKEN}")));
    assert_eq!(store.requests().len(), 1, "the particulars were known");
}

#[test]
fn redirects_of_every_kind_are_followed() {
    for status in [301, 302, 303, 307, 308] {
        let mirror = strict_store();
        let target = other_host(&mirror);
        // First a relative one, then to another host.
        let hub = FakeServer::start(move |request| match request.path.strip_prefix("/moved") {
            Some(path) => redirect(status, &format!("{target}{path}")),
            None => redirect(status, &format!("/moved{}", request.path)),
        });
        let place = Place::new(hub.url());
        let (path, _) = place.get("train.jsonl").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), CONTENTS);
        assert!(hub.requests().iter().all(|request| request.headers.contains_key("authorization")));
    }
}

#[test]
fn redirects_that_lead_nowhere_are_refused() {
    let circle = FakeServer::start(|request| redirect(302, &request.path));
    let lost = FakeServer::start(|_| Response::status(307));
    let strange = FakeServer::start(|_| redirect(301, "file:///etc/passwd"));
    for (server, words) in [(circle, "redirects"), (lost, "without a Location"), (strange, "neither http nor https")] {
        let place = Place::new(server.url());
        let error = place.get("train.jsonl").unwrap_err();
        assert!(matches!(error, HubError::Answer { .. }) && error.to_string().contains(words), "{error}");
        assert!(place.pauses.0.lock().unwrap().is_empty());
    }
}

#[test]
fn a_silent_connection_is_given_up() {
    let server = FakeServer::start(|request| {
        let mut response = serve_right(request);
        if !request.is_for_metadata() {
            response.cut_at = Some(1);
            response.silence = Duration::from_secs(20);
        }
        response
    });
    let place = Place::new(server.url());
    let start = Instant::now();
    let error = place.get("train.jsonl").unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(error.contains("broke off after 4 bytes"), "{error}");
    assert_eq!(*place.pauses.0.lock().unwrap(), [1, 2, 4]);
}

#[test]
fn a_weak_entity_tag_names_the_same_file() {
    let server = FakeServer::start(|request| {
        let mut response = serve_right(request);
        response.headers[0].1 = format!("W/\"{}\"", sha256(CONTENTS));
        response
    });
    let place = Place::new(server.url());
    place.get("train.jsonl").unwrap();
    assert!(place.in_cache(&format!("blobs/{}", sha256(CONTENTS))).exists());
}

#[test]
fn a_hub_cannot_name_files_outside_the_cache() {
    for header in [0, 1] {
        let server = FakeServer::start(move |request| {
            let mut response = serve_right(request);
            response.headers[header].1 = "../../x".to_owned();
            response
        });
        assert!(matches!(Place::new(server.url()).get("train.jsonl"), Err(HubError::Answer { .. })));
    }
}
