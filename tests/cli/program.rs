//! Runs the program and checks how it ended.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Exit code of bad input.
pub const BAD_INPUT: i32 = 2;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nemo-burn");

/// What a finished process left behind.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the program in `folder` without input.
pub fn run_in<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[S]) -> Finished {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(arguments);
    finish(command)
}

/// Runs the program in the repository.
pub fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Finished {
    run_in(&repository(), arguments)
}

/// Runs the program in the repository with this input.
pub fn run_with_input<S: AsRef<std::ffi::OsStr>>(arguments: &[S], input: &str) -> Finished {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // A program that ends early does not read everything.
    let _ = child.stdin.take().expect("an input").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs any command without input, in an environment with neither a model cache nor a hub.
pub fn finish(mut command: Command) -> Finished {
    command.stdin(Stdio::null()).env("RUST_BACKTRACE", "1").env("HF_HOME", "/nonexistent").env("HF_HUB_OFFLINE", "1");
    let output = command.output().expect("the program starts");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

impl Finished {
    /// Checks that all went well and returns standard output.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// Checks that the program refused its input with one error that says all of `words`.
    #[track_caller]
    pub fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(BAD_INPUT), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.matches("error: ").count(), 1, "one error: {}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
        for word in ["panicked", "RUST_BACKTRACE", "stack backtrace", "internal error"] {
            assert!(!self.stderr.contains(word), "`{word}` is in: {}", self.stderr);
        }
    }
}

/// Every file below a folder with its contents.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).expect("a file");
            files.push((path, bytes));
        }
    }
    files.sort();
    files
}

/// Copies a folder of files and folders.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}
