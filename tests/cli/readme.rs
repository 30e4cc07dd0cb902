//! What README.md says can be typed can be typed.

use std::fs;

use super::program::{repository, run};

/// Command lines of the indented and fenced blocks of a document.
fn commands(text: &str) -> Vec<String> {
    let starts = ["cargo ", "nemo-burn ", "git ", "./.ci/"];
    let lines = text.lines().map(|line| line.trim().trim_start_matches("$ "));
    lines.filter(|line| starts.iter().any(|start| line.starts_with(start))).map(str::to_owned).collect()
}

/// Splits like a shell, as far as single and double quotes go; a comment ends the line.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut started) = (Vec::new(), String::new(), None, false);
    for letter in line.chars() {
        match quote {
            Some(open) if letter == open => quote = None,
            Some(_) => word.push(letter),
            None if letter == '"' || letter == '\'' => (quote, started) = (Some(letter), true),
            None if letter == '#' && !started => break,
            None if letter.is_whitespace() => {
                if started {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            None => {
                word.push(letter);
                started = true;
            }
        }
    }
    if started {
        words.push(word);
    }
    words
}

#[test]
fn every_command_is_accepted() {
    let mut checked = 0;
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "configs/README.md"] {
        let text = fs::read_to_string(repository().join(document)).unwrap();
        for line in commands(&text) {
            let words = words(&line);
            let arguments = match words.iter().position(|word| word == "nemo-burn" || word == "--") {
                Some(place) if words[0] == "nemo-burn" || words[1] == "run" => &words[place + 1..],
                _ => continue,
            };
            // With --help nothing is done, but what stands before it has to be understood.
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--help"]).collect();
            let finished = run(&arguments);
            assert_eq!(finished.code, Some(0), "{document}: {line}: {}", finished.stderr);
            checked += 1;
        }
    }
    println!("readme: {checked} commands");
    assert!(checked >= 5);
}

#[test]
fn the_first_two_commands_are_the_promised_ones() {
    let text = fs::read_to_string(repository().join("README.md")).unwrap();
    let commands: Vec<String> = commands(&text).into_iter().filter(|line| !line.starts_with("git ")).collect();
    assert_eq!(words(&commands[0]).join(" "), "cargo run --release -- train");
    assert_eq!(words(&commands[1]).join(" "), "cargo test --release --workspace");
}

#[test]
fn paths_that_documents_name_exist() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "configs/README.md"] {
        let path = repository().join(document);
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let target = path.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(link.starts_with("http") || link.starts_with('#') || target.exists(), "{document} links to {link}");
        }
    }
}
