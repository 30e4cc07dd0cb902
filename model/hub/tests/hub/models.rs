//! Models of the hub: all files of one commit in one folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nemo_hub::{HubError, ModelName};

use crate::data_sets::{COMMIT, Place, sha256};
use crate::fake_server::{FakeServer, Request, Response};

const OTHER_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";
const INDEX: &str =
    r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;

type Files = BTreeMap<&'static str, &'static str>;

fn sharded() -> Files {
    Files::from([
        ("config.json", "{}"),
        ("tokenizer.json", "{\"version\": \"1.0\"}"),
        ("special_tokens_map.json", "{}"),
        ("additional_chat_templates/tool_use.jinja", "tools"),
        ("model.safetensors.index.json", INDEX),
        ("model-1.safetensors", "first"),
        ("model-2.safetensors", "second"),
        ("pytorch_model.bin", "not wanted"),
    ])
}

/// The same with another text in one file.
fn with(file: &'static str, text: &'static str) -> Files {
    let mut files = sharded();
    files.insert(file, text);
    files
}

/// Answers for `acme/tiny`, at any revision.
fn serve(files: &Files, commit: &str, request: &Request) -> Response {
    let file = request.path.strip_prefix("/acme/tiny/resolve/").and_then(|path| path.split_once('/'));
    let Some(text) = file.and_then(|(_, file)| files.get(file)) else {
        return Response { headers: vec![("x-error-code", "EntryNotFound".to_owned())], ..Response::status(404) };
    };
    let start = request.range_start().unwrap_or(0);
    let end = if request.is_for_metadata() { 1 } else { text.len() };
    let headers = vec![
        ("etag", format!("\"{}\"", sha256(text.as_bytes()))),
        ("x-repo-commit", commit.to_owned()),
        ("content-range", format!("bytes {start}-{}/{}", end - 1, text.len())),
    ];
    Response { status: 206, headers, body: text.as_bytes()[start..end].to_vec(), ..Response::default() }
}

fn model_of(place: &Place, name: &str) -> Result<PathBuf, HubError> {
    place.hub().model(&ModelName::parse(name).unwrap())
}

/// How often the contents of a file were asked for.
fn downloads(server: &FakeServer, file: &str) -> usize {
    server.requests().iter().filter(|request| request.path.ends_with(file) && !request.is_for_metadata()).count()
}

#[test]
fn a_model_in_shards_is_complete_or_downloaded() {
    let server = FakeServer::start(|request| serve(&sharded(), COMMIT, request));
    let mut place = Place::new(server.url());
    let folder = model_of(&place, "acme/tiny").unwrap();
    assert!(folder.ends_with(format!("models--acme--tiny/snapshots/{COMMIT}")));
    for (file, text) in sharded() {
        assert_eq!(
            fs::read_to_string(folder.join(file)).ok().as_deref(),
            Some(text).filter(|_| file != "pytorch_model.bin")
        );
    }
    assert_eq!((downloads(&server, "model-1.safetensors"), downloads(&server, "pytorch_model.bin")), (1, 0));

    place.settings.is_offline = true;
    assert_eq!(model_of(&place, "acme/tiny").unwrap(), folder);
    let shard = folder.join("model-2.safetensors");
    fs::remove_file(fs::canonicalize(&shard).unwrap()).unwrap();
    fs::remove_file(shard).unwrap();
    assert!(matches!(model_of(&place, "acme/tiny"), Err(HubError::Offline { .. })));
    place.settings.is_offline = false;
    assert_eq!(model_of(&place, "acme/tiny").unwrap(), folder);
    assert_eq!((downloads(&server, "model-1.safetensors"), downloads(&server, "model-2.safetensors")), (1, 2));
}

#[test]
fn a_tokenizer_comes_without_weights_and_from_any_revision() {
    let server = FakeServer::start(|request| serve(&sharded(), COMMIT, request));
    let place = Place::new(server.url());
    let folder = place.hub().tokenizer(&ModelName::parse("acme/tiny@refs/pr/1").unwrap()).unwrap();
    assert!(folder.join("tokenizer.json").exists() && !folder.join("config.json").exists());
    assert_eq!(server.requests()[0].path, "/acme/tiny/resolve/refs%2Fpr%2F1/tokenizer.json");
    assert_eq!(downloads(&server, ".safetensors"), 0);
}

#[test]
fn what_is_no_model_is_refused() {
    let index = |text| with("model.safetensors.index.json", text);
    let without = |name: &str| sharded().into_iter().filter(|(file, _)| *file != name).collect::<Files>();
    for (files, words) in [
        (without("model.safetensors.index.json"), "expected a model in safetensors"),
        (without("model-2.safetensors"), "names model-2.safetensors, which is not there"),
        (index("{}"), "no object \"weight_map\""),
        (index("[1"), "model.safetensors.index.json"),
        (index(r#"{"weight_map": {"a": "../../../x"}}"#), "expected a file name"),
        (index(r#"{"weight_map": {"a": 1}}"#), "expected a file name"),
    ] {
        let server = FakeServer::start(move |request| serve(&files, COMMIT, request));
        let error = model_of(&Place::new(server.url()), "acme/tiny").unwrap_err();
        assert!(matches!(error, HubError::NotAModel { .. }) && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_gated_model_says_where_its_terms_are() {
    for (status, token) in [(401, None), (403, Some("hf_of_a_test"))] {
        let server = FakeServer::start(move |_| Response {
            headers: vec![("x-error-code", "GatedRepo".to_owned())],
            ..Response::status(status)
        });
        let mut place = Place::new(server.url());
        place.settings.token = token.map(str::to_owned);
        let error = model_of(&place, "acme/tiny").unwrap_err().to_string();
        let page = format!("accept its terms at {}/acme/tiny and set HF_TOKEN", server.url());
        assert!(error.contains(&page) && error.contains(&status.to_string()), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_folder_never_mixes_two_commits() {
    // The branch moves once the configuration is there.
    let server = FakeServer::start({
        let mut count = 0;
        move |request| {
            count += 1;
            let (text, commit) = if count <= 2 { ("{\"old\": 1}", COMMIT) } else { ("{}", OTHER_COMMIT) };
            serve(&with("config.json", text), commit, request)
        }
    });
    let place = Place::new(server.url());
    let folder = model_of(&place, "acme/tiny").unwrap();
    assert!(folder.ends_with(OTHER_COMMIT));
    assert_eq!(fs::read_to_string(folder.join("config.json")).unwrap(), "{}");

    // One that never rests.
    let server = FakeServer::start({
        let mut count = 0;
        move |request| {
            count += 1;
            serve(&sharded(), &format!("{count:040}"), request)
        }
    });
    let place = Place::new(server.url());
    let error = model_of(&place, "acme/tiny").unwrap_err().to_string();
    assert!(error.contains("name a commit with @"), "{error}");
    assert!(!place.cache().join("models--acme--tiny/refs/main").exists());
}

#[test]
fn two_at_once_download_a_file_once() {
    let server = FakeServer::start(|request| {
        let mut response = serve(&sharded(), COMMIT, request);
        if !request.is_for_metadata() {
            response.delay = Duration::from_millis(100);
        }
        response
    });
    let place = Place::new(server.url());
    let folders: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| model_of(&place, "acme/tiny").unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(folders.iter().all(|folder| *folder == folders[0]));
    for file in ["config.json", "model-1.safetensors", "model-2.safetensors"] {
        assert_eq!(downloads(&server, &format!("/{file}")), 1, "{file}");
    }
    assert!(place.pauses.1.lock().unwrap().iter().any(|note| note.contains("another process downloads the same file")));
}

#[test]
fn a_repository_with_nothing_but_an_adapter_is_named_for_what_it_is() {
    for files in [
        Files::from([("adapter_model.safetensors", "a"), ("adapter_config.json", "{}")]),
        Files::from([("adapter_model.safetensors", "a"), ("config.json", "{}")]),
    ] {
        let server = FakeServer::start(move |request| serve(&files, COMMIT, request));
        let error = model_of(&Place::new(server.url()), "acme/tiny").unwrap_err().to_string();
        assert!(error.contains("a LoRA adapter") && error.contains("merge it into its base model"), "{error}");
        assert_eq!(downloads(&server, "adapter_model.safetensors"), 0);
    }
}
