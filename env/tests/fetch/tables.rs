//! The real tables from a server, a wheel and a folder. What needs the tables themselves takes them from the folder in
//! `NEMO_BURN_DATA` (default: `shared/data` beside the repository).

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::fake_server::{FakeServer, Response};
use nemo_env::Tables;
use nemo_env::fetch::tables::{FetchedTables, TableSource, fetch_tables};
use nemo_env::fetch::{Backoff, FetchError, Retry};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const FILES: [&str; 6] = [
    "processed/analytics_data.csv",
    "processed/calendar_events.csv",
    "processed/customer_relationship_manager_data.csv",
    "processed/emails.csv",
    "processed/project_tasks.csv",
    "raw/email_addresses.csv",
];
const IN_REPOSITORY: &str = "resources_servers/workplace_assistant/csv_data";

fn real_tables() -> Option<PathBuf> {
    let data = std::env::var_os("NEMO_BURN_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let folder = data.join("workplace/csv_data");
    if !folder.is_dir() {
        println!("skipped: no tables (NEMO_BURN_DATA)");
    }
    folder.is_dir().then_some(folder)
}

fn fetch(source: &TableSource, folder: &Path) -> (Result<FetchedTables, FetchError>, Vec<u64>) {
    let pauses = RefCell::new(Vec::new());
    let pause = |retry: &Retry| {
        // The advice is for who has given up.
        assert!(retry.reason.starts_with("http://127.0.0.1:") && !retry.reason.contains(';'), "{}", retry.reason);
        pauses.borrow_mut().push(retry.wait.as_secs());
    };
    let backoff = Backoff { max_attempts: 3, ..Backoff::default() };
    let fetched = fetch_tables(source, folder, &backoff, &pause);
    (fetched, pauses.into_inner())
}

fn repository(server: &FakeServer) -> TableSource {
    TableSource::Repository { url: server.url(), commit: "abc".to_owned() }
}

fn wheel(path: &Path, entries: &[(String, Vec<u8>)]) -> TableSource {
    let mut zip = ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, contents) in entries {
        zip.start_file(name.as_str(), SimpleFileOptions::default()).unwrap();
        zip.write_all(contents).unwrap();
    }
    zip.finish().unwrap();
    TableSource::Wheel(path.to_owned())
}

#[test]
fn a_server_is_asked_for_each_file_once() {
    let Some(real) = real_tables() else { return };
    let root = real.clone();
    let mut count = 0;
    let server = FakeServer::start(move |request| {
        count += 1;
        if count == 2 {
            return Response { status: 429, headers: vec![("Retry-After", "17".to_owned())], ..Response::default() };
        }
        match request.path.strip_prefix(&format!("/abc/{IN_REPOSITORY}/")) {
            Some(file) => {
                Response { status: 200, body: std::fs::read(root.join(file)).unwrap(), ..Response::default() }
            }
            None => Response::status(404),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let (fetched, pauses) = fetch(&repository(&server), folder.path());
    let fetched = fetched.unwrap();
    assert_eq!((fetched.written.len(), fetched.kept.len(), pauses), (6, 0, vec![17]));
    assert_eq!(server.requests().len(), 7);
    assert_eq!(Tables::load_dir(folder.path()).unwrap(), Tables::load_dir(&real).unwrap());
    assert!(std::fs::read_to_string(folder.path().join("LICENSE.txt")).unwrap().contains("Apache License"));

    // What is there and right is not asked for again; what is not, is.
    std::fs::write(folder.path().join(FILES[3]), "torn").unwrap();
    let (again, _) = fetch(&repository(&server), folder.path());
    assert_eq!(again.unwrap().written, [folder.path().join(FILES[3])]);
    assert_eq!(server.requests().len(), 8);
    drop(server);
    let nowhere = TableSource::Repository { url: "http://127.0.0.1:9".to_owned(), commit: "abc".to_owned() };
    assert_eq!(fetch(&nowhere, folder.path()).0.unwrap().kept.len(), 6);
}

#[test]
fn wheels_and_folders_hold_them_too() {
    let Some(real) = real_tables() else { return };
    let folder = tempfile::tempdir().unwrap();
    let entries: Vec<(String, Vec<u8>)> =
        FILES.iter().map(|file| (format!("{IN_REPOSITORY}/{file}"), std::fs::read(real.join(file)).unwrap())).collect();
    let source = wheel(&folder.path().join("nemo_gym.whl"), &entries);
    let from_wheel = folder.path().join("from wheel");
    assert_eq!(fetch(&source, &from_wheel).0.unwrap().written.len(), 6);
    let from_folder = folder.path().join("from folder");
    assert_eq!(fetch(&TableSource::Folder(real.clone()), &from_folder).0.unwrap().written.len(), 6);
    let from_parent = folder.path().join("from parent");
    let parent = TableSource::Folder(real.parent().unwrap().to_owned());
    assert_eq!(fetch(&parent, &from_parent).0.unwrap().written.len(), 6);
    for copy in [from_wheel, from_folder, from_parent] {
        for file in FILES {
            assert_eq!(std::fs::read(copy.join(file)).unwrap(), std::fs::read(real.join(file)).unwrap());
        }
    }
    // One file less, and one byte more.
    let source = wheel(&folder.path().join("short.whl"), &entries[..5]);
    let error = fetch(&source, &folder.path().join("short")).0.unwrap_err();
    assert!(matches!(error, FetchError::NotThere { file: "raw/email_addresses.csv", .. }), "{error}");
    let mut other = entries;
    other[2].1.push(b'\n');
    let source = wheel(&folder.path().join("other.whl"), &other);
    let error = fetch(&source, &folder.path().join("other")).0.unwrap_err();
    assert!(matches!(error, FetchError::Checksum { .. }), "{error}");
    assert!(!folder.path().join("other").join(FILES[2]).exists());
}

#[test]
fn files_that_are_not_the_right_ones_are_refused() {
    let server = FakeServer::start(|_| Response { status: 200, body: b"<html>".to_vec(), ..Response::default() });
    let folder = tempfile::tempdir().unwrap();
    let error = fetch(&repository(&server), folder.path()).0.unwrap_err();
    let FetchError::Checksum { place, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(place.ends_with(FILES[0]), "{place}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let not_a_wheel = folder.path().join("x.whl");
    std::fs::write(&not_a_wheel, "text").unwrap();
    let error = fetch(&TableSource::Wheel(not_a_wheel), folder.path()).0.unwrap_err();
    assert!(matches!(error, FetchError::Wheel { .. }), "{error}");
    let error = fetch(&TableSource::Folder(folder.path().to_owned()), &folder.path().join("out")).0.unwrap_err();
    assert!(matches!(error, FetchError::NotThere { .. }), "{error}");
}

#[test]
fn servers_that_refuse_or_stay_busy_are_given_up() {
    for (status, num_requests) in [(404, 1), (503, 3)] {
        let server = FakeServer::start(move |_| Response::status(status));
        let folder = tempfile::tempdir().unwrap();
        let error = fetch(&repository(&server), folder.path()).0.unwrap_err();
        assert!(matches!(error, FetchError::Status { status: found, .. } if found == status), "{error:?}");
        assert_eq!(server.requests().len(), num_requests);
    }
    let nowhere = TableSource::Repository { url: "http://127.0.0.1:9".to_owned(), commit: "abc".to_owned() };
    let (error, pauses) = fetch(&nowhere, tempfile::tempdir().unwrap().path());
    assert!(matches!(error.unwrap_err(), FetchError::Request { .. }));
    assert_eq!(pauses, [1, 2]);
}
