//! Models of the hub, through the program: found in the cache, downloaded, continued.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
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

const GENERATE: [&str; 5] = ["generate", "--model=acme/tiny", "--prompt=hi", "--greedy", "--max-new-tokens=3"];

fn command(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(arguments);
    for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", "/nonexistent").envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn generate(folder: &Path, variables: &[(&str, &str)]) -> Finished {
    finished(command(folder, &GENERATE, variables).output().unwrap())
}

fn finished(output: Output) -> Finished {
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
    assert!(finished.stderr.contains("taken from the cache") && !finished.stderr.contains("follows in"));
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
    let mut child = command(folder.path(), &GENERATE, &variables).spawn().unwrap();
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

#[test]
fn models_of_the_hub_are_measured_and_trained() {
    let folder = workspace();
    let model = folder.path().join("hub");
    // There is no folder that could be taken for it.
    fs::rename(folder.path().join("model"), &model).unwrap();
    let source = model.clone();
    let server = FakeServer::start(move |request| serve(&source, request));
    let url = server.url();
    let run = |arguments: &[&str], cache: &str| {
        let variables = [("HF_HUB_CACHE", cache), ("HF_ENDPOINT", url.as_str())];
        finished(command(folder.path(), arguments, &variables).output().unwrap())
    };
    let eval = |model: &str| {
        let name = format!("--model={model}");
        let task = ["--split=train", "--count=1", "--num-offices=1", "--max-length=8192", "--max-new-tokens=3"];
        run(&[&["eval", &name, "--greedy", "--json"][..], &task].concat(), "of_eval").succeeded()
    };
    let measured = eval("acme/tiny");
    assert!(folder.path().join("of_eval/models--acme--tiny/snapshots").join(COMMIT).exists());
    assert_eq!(eval("hub"), measured);

    let train = |name: &str, results: &str, more: &[&str]| {
        let name = format!("policy.model_name={name}");
        let results = format!("checkpointing.checkpoint_dir={results}");
        // Such a model earns nothing, so that weight decay alone changes it.
        let decay = [
            "policy.megatron_cfg.optimizer.weight_decay=0.5",
            "policy.megatron_cfg.scheduler.start_weight_decay=0.5",
            "policy.megatron_cfg.scheduler.end_weight_decay=0.5",
            "grpo.max_num_steps=2",
        ];
        let arguments = [&["train", "--config=config.yaml", &name, &results][..], &decay].concat();
        run(&[arguments.as_slice(), more].concat(), "of_train").succeeded()
    };
    let num_requests = server.requests().len();
    train("acme/tiny", "planned", &["--dry-run"]);
    assert_eq!(server.requests().len(), num_requests, "a dry run asks nobody");
    train("acme/tiny", "by_name", &[]);
    train("hub", "by_folder", &[]);
    let weights =
        |results: &str| fs::read(folder.path().join(results).join("step_2/policy/model.safetensors")).unwrap();
    assert!(weights("by_name") == weights("by_folder"), "trained from the same weights");
    assert!(weights("by_name") != fs::read(model.join("model.safetensors")).unwrap(), "trained");
}

/// The second process waits for the first one's download instead of writing into the same file.
#[test]
fn two_processes_download_into_one_cache() {
    let folder = workspace();
    let model = folder.path().join("model");
    let source = model.clone();
    let server = FakeServer::start(move |request| {
        let is_weights = request.path.ends_with("model.safetensors") && !request.is_for_metadata();
        let delay = Duration::from_millis(if is_weights { 1500 } else { 0 });
        Response { delay, ..serve(&source, request) }
    });
    let url = server.url();
    let variables = [("HF_HUB_CACHE", "cache"), ("HF_ENDPOINT", url.as_str())];
    let start = || command(folder.path(), &GENERATE, &variables).spawn().unwrap();
    let texts = [start(), start()].map(|child| finished(child.wait_with_output().unwrap()).succeeded());
    assert_eq!(texts[0], texts[1]);
    let is_download = |request: &&Request| !request.is_for_metadata() && request.path.ends_with("model.safetensors");
    assert_eq!(server.requests().iter().filter(is_download).count(), 1);
    let blob = folder.path().join("cache/models--acme--tiny/blobs");
    let stored = fs::read(blob.join(sha256(&fs::read(model.join("model.safetensors")).unwrap()))).unwrap();
    assert_eq!(stored, fs::read(model.join("model.safetensors")).unwrap());
    assert!(contents(&blob).iter().all(|(path, _)| path.extension().is_none_or(|end| end != "incomplete")));
}
