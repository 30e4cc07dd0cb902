//! Files that somebody names are read within limits: only regular ones, so that no pipe is waited for and no device read
//! without end, and lines up to a length.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// Longest line of a file of lines, in bytes.
pub const MAX_LINE_BYTES: usize = 16 << 20;
/// Largest file that is read as a whole, in bytes.
pub const MAX_TEXT_BYTES: usize = 256 << 20;

/// Opens a regular file.
///
/// # Errors
/// It is something else, or cannot be opened.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    let metadata = fs::metadata(&path)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("this is {found}; expected a regular file (write what a pipe gives into one first)"),
        ));
    }
    File::open(path)
}

/// Text of a file of at most [`MAX_TEXT_BYTES`].
///
/// # Errors
/// As for [`open`]; the file is larger or no UTF-8 text.
pub fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.take(MAX_TEXT_BYTES as u64 + 1).read_to_string(&mut text)?;
    if text.len() > MAX_TEXT_BYTES {
        return Err(too_long("the file is", MAX_TEXT_BYTES));
    }
    Ok(text)
}

/// The lines of a regular file, see [`lines`].
///
/// # Errors
/// As for [`open`].
pub fn open_lines(path: impl AsRef<Path>) -> io::Result<impl Iterator<Item = (usize, io::Result<Vec<u8>>)>> {
    Ok(lines(BufReader::new(open(path)?)))
}

/// The lines that hold anything, without white space around them and with their numbers from 1; blank ones and a byte
/// order mark are left out. A line longer than [`MAX_LINE_BYTES`] is an error and the last.
pub fn lines(mut reader: impl BufRead) -> impl Iterator<Item = (usize, io::Result<Vec<u8>>)> {
    let mut number = 0;
    let mut is_over = false;
    std::iter::from_fn(move || {
        while !is_over {
            number += 1;
            let line = next_line(&mut reader);
            is_over = !matches!(line, Ok(Some(_)));
            let line = line.transpose()?;
            let line = line.map(|line| match number {
                1 => line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line).trim_ascii().to_vec(),
                _ => line.trim_ascii().to_vec(),
            });
            if line.as_ref().map_or(true, |line| !line.is_empty()) {
                return Some((number, line));
            }
        }
        None
    })
}

/// The next line with its end; `None` at the end of the input.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let length = reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
    if length > MAX_LINE_BYTES {
        return Err(too_long("the line is", MAX_LINE_BYTES));
    }
    Ok((length > 0).then_some(line))
}

fn too_long(what: &str, max_bytes: usize) -> io::Error {
    let max_mib = max_bytes >> 20;
    io::Error::new(ErrorKind::InvalidData, format!("{what} longer than {max_mib} MiB; expected at most that"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_their_numbers_and_a_limit() {
        let text = "\u{feff} a\r\n\n  \nb";
        let found: Vec<(usize, String)> =
            lines(text.as_bytes()).map(|(number, line)| (number, String::from_utf8(line.unwrap()).unwrap())).collect();
        assert_eq!(found, [(1, "a".to_owned()), (4, "b".to_owned())]);
        let endless = BufReader::new(b"a\n".chain(io::repeat(b'x')));
        let mut found = lines(endless);
        assert_eq!(found.next().unwrap().1.unwrap(), b"a");
        let (number, line) = found.next().unwrap();
        assert_eq!(
            (number, line.unwrap_err().to_string().as_str()),
            (2, "the line is longer than 16 MiB; expected at most that")
        );
        assert!(found.next().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_folders_are_refused() {
        for (path, found) in [("/dev/zero", "a pipe or a device"), ("/", "a folder")] {
            let error = open(path).unwrap_err().to_string();
            assert!(error.starts_with(&format!("this is {found}; expected a regular file")), "{error}");
        }
    }
}
