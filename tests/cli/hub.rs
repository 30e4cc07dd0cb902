//! Models of the hub, through the program: found in the cache, downloaded, continued.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::fake_server::{FakeServer, Request, Response};
use super::program::{Finished, PROGRAM, contents, copy_folder};
use super::small_model::workspace;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Answers for `acme/tiny`, whose files are those of a folder.
fn serve(folder: &Path, request: &Request) -> Response {
    let file = request.path.strip_prefix("/acme/tiny/resolve/main/");
    let Some(bytes) = file.and_then(|file| fs::read(folder.join(file)).ok()) else {
        return Response { headers: vec![("x-error-code", "EntryNotFound".to_owned())], ..Response::status(404) };
    };
    let start = request.range_start().unwrap_or(0);
    let end = if request.is_for_metadata() { 1 } else { bytes.len() };
    let headers = vec![
        ("etag", format!("\"{}\"", sha256(&bytes))),
        ("x-repo-commit", COMMIT.to_owned()),
        ("content-range", format!("bytes {start}-{}/{}", end - 1, bytes.len())),
    ];
    Response { status: 206, headers, body: bytes[start..end].to_vec(), ..Response::default() }
}

fn command(folder: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args([
        "generate",
        "--model=acme/tiny",
        "--prompt=hi",
        "--greedy",
        "--max-new-tokens=3",
    ]);
    for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", "/nonexistent").envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn generate(folder: &Path, variables: &[(&str, &str)]) -> Finished {
    let output = command(folder, variables).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_model_in_the_cache_is_found_where_hf_hub_cache_says() {
    let folder = workspace();
    let cached = folder.path().join("cache/models--acme--tiny");
    copy_folder(&folder.path().join("model"), &cached.join("snapshots/abc"));
    fs::create_dir(cached.join("refs")).unwrap();
    fs::write(cached.join("refs/main"), "abc").unwrap();
    let finished = generate(folder.path(), &[("HF_HUB_CACHE", "cache"), ("HF_HUB_OFFLINE", "1")]);
    assert!(finished.stderr.contains("HF_HUB_OFFLINE is set"), "{}", finished.stderr);
    finished.succeeded();
    // A hub that cannot be reached is asked once, and not waited for.
    let finished = generate(folder.path(), &[("HF_HUB_CACHE", "cache"), ("HF_ENDPOINT", "http://127.0.0.1:9")]);
    assert!(finished.stderr.contains("taken from the cache") && !finished.stderr.contains("waiting"));
    finished.succeeded();
    // What is not whole is not taken.
    fs::remove_file(cached.join("snapshots/abc/model.safetensors")).unwrap();
    let finished = generate(folder.path(), &[("HF_HUB_CACHE", "cache"), ("HF_HUB_OFFLINE", "1")]);
    finished.refused(&["acme/tiny", "HF_HUB_OFFLINE"]);
}

#[test]
fn a_model_is_downloaded_once_and_goes_on_after_a_kill() {
    let folder = workspace();
    let model = folder.path().join("model");
    let size = fs::metadata(model.join("model.safetensors")).unwrap().len() as usize;
    let mut is_first = true;
    let source = model.clone();
    let server = FakeServer::start(move |request| {
        let mut response = serve(&source, request);
        let is_weights = request.path.ends_with("model.safetensors") && !request.is_for_metadata();
        if is_weights && std::mem::take(&mut is_first) {
            response.cut_at = Some(size / 2);
            response.silence = Duration::from_secs(60);
        }
        response
    });
    let url = server.url();
    let variables = [("HF_HUB_CACHE", "cache"), ("HF_ENDPOINT", url.as_str()), ("HF_TOKEN", "hf_of_a_test")];
    let cached = folder.path().join("cache/models--acme--tiny");
    let weights = sha256(&fs::read(model.join("model.safetensors")).unwrap());
    let incomplete = cached.join(format!("blobs/{weights}.incomplete"));
    let mut child = command(folder.path(), &variables).spawn().unwrap();
    for _ in 0..200 {
        if fs::metadata(&incomplete).is_ok_and(|file| file.len() as usize == size / 2) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::metadata(&incomplete).unwrap().len() as usize, size / 2);
    assert!(!cached.join("refs/main").exists());

    let expected = generate(folder.path(), &variables).succeeded();
    let ranges: Vec<Option<usize>> = server
        .requests()
        .iter()
        .filter(|request| request.path.ends_with("model.safetensors") && !request.is_for_metadata())
        .map(Request::range_start)
        .collect();
    assert_eq!(ranges, [None, Some(size / 2)]);
    assert!(!incomplete.exists());
    let names = |folder: &Path| {
        contents(folder)
            .into_iter()
            .map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes))
            .collect::<Vec<_>>()
    };
    let snapshot = names(&cached.join("snapshots").join(COMMIT));
    assert!(snapshot.iter().all(|file| names(&model).contains(file)));

    // What is there is not asked for again.
    let num_requests = server.requests().len();
    assert_eq!(generate(folder.path(), &variables).succeeded(), expected);
    assert_eq!(server.requests().len(), num_requests + 1);
}

#[test]
fn the_hub_refuses_in_words() {
    for (status, words) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "check the name")] {
        let server = FakeServer::start(move |_| Response::status(status));
        let folder = tempfile::tempdir().unwrap();
        let url = server.url();
        generate(folder.path(), &[("HF_HUB_CACHE", "cache"), ("HF_ENDPOINT", &url)]).refused(&["acme/tiny", words]);
        assert_eq!(server.requests().len(), 1);
    }
}
