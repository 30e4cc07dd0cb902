//! What the documents say can be typed works: README.md's commands one after the other, at small sizes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::program::{PROGRAM, copy_folder, repository, run, run_in};
use super::real_office;

/// Command lines of the indented and fenced blocks of a document.
fn commands(text: &str) -> Vec<String> {
    let starts = ["cargo ", "nemo-burn ", "git ", "./.ci/"];
    let lines = text.lines().map(|line| line.trim().trim_start_matches("$ "));
    lines.filter(|line| starts.iter().any(|start| line.starts_with(start))).map(str::to_owned).collect()
}

/// Splits like a shell, as far as single and double quotes go; a comment or `&` ends the line.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut started) = (Vec::new(), String::new(), None, false);
    for letter in line.chars() {
        match quote {
            Some(open) if letter == open => quote = None,
            Some(_) => word.push(letter),
            None if letter == '"' || letter == '\'' => (quote, started) = (Some(letter), true),
            None if (letter == '#' || letter == '&') && !started => break,
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

/// The arguments of a command line of this program; nothing for other programs.
fn arguments_of(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    match words.iter().position(|word| word == "nemo-burn" || word == "--") {
        Some(place) if words[0] == "nemo-burn" || words[1..place] == ["run", "--release"] => {
            Some(words[place + 1..].to_vec())
        }
        _ => None,
    }
}

#[test]
fn every_command_is_accepted() {
    let mut checked = 0;
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "configs/README.md", "env/README.md"] {
        let text = fs::read_to_string(repository().join(document)).unwrap();
        for line in commands(&text) {
            let Some(mut arguments) = arguments_of(&line) else { continue };
            // With --help nothing is done, but what stands before it has to be understood.
            arguments.push("--help".to_owned());
            let finished = run(&arguments);
            assert_eq!(finished.code, Some(0), "{document}: {line}: {}", finished.stderr);
            checked += 1;
        }
    }
    println!("readme: {checked} commands");
}

/// The same command on less: fewer steps, tasks and tokens.
fn smaller(mut arguments: Vec<String>) -> Vec<String> {
    const RUN: &[&str] = &[
        "data.train.generate.count=8",
        "data.validation.generate.count=2",
        "grpo.max_num_steps=1",
        "grpo.num_prompts_per_step=2",
        "grpo.num_generations_per_prompt=2",
        "sft.max_num_steps=1",
        "sft.batch_size=2",
    ];
    let kind = match arguments[0].as_str() {
        "env" => arguments[1].clone(),
        command => command.to_owned(),
    };
    if let Some(place) = arguments.iter().position(|word| word == "--count") {
        arguments[place + 1] = "10".to_owned();
    }
    if kind == "init" {
        let place = arguments.iter().position(|word| word == "--config").expect("a shape");
        arguments[place + 1] = "configs/models/tiny.json".to_owned();
    }
    let more: &[&str] = match kind.as_str() {
        "train" | "sft" => RUN,
        "generate" if arguments[0] == "generate" => &["--max-new-tokens=4"],
        "eval" => &["--max-new-tokens=8"],
        _ => &[],
    };
    // The checkpoint at the end of a shorter run.
    arguments.iter_mut().for_each(|word| *word = word.replace("/step_100/", "/step_1/"));
    arguments.retain(|word| !more.iter().any(|new| new.split('=').next() == word.split('=').next()));
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    arguments
}

/// What stands in for the network in commands that download: the real tables and records, where they are.
fn from_files(arguments: &mut Vec<String>, data: &Path) {
    match arguments[1].as_str() {
        "fetch" => arguments.push(format!("--folder={}", data.join("csv_data").display())),
        "prepare" => arguments.push(format!("--records={}", data.join("example.jsonl").display())),
        _ => {}
    }
}

#[test]
fn the_commands_of_the_readme_work_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&repository().join("configs"), &folder.path().join("configs"));
    let data = real_office::data();
    let text = fs::read_to_string(repository().join("README.md")).unwrap();
    let mut run_so_far = 0;
    for line in commands(&text) {
        let Some(arguments) = arguments_of(&line) else { continue };
        let mut arguments = smaller(arguments);
        let needs_data = ["fetch", "prepare", "data/workplace_assistant/validation.jsonl"];
        if arguments.iter().any(|word| needs_data.contains(&word.as_str())) {
            let Some(data) = &data else { continue };
            from_files(&mut arguments, data);
        }
        match arguments.get(1).map(String::as_str) {
            Some("serve") => serve_and_stop(folder.path(), &arguments),
            _ => {
                // A person who plays ends at once; the others read no input.
                let finished = run_in(folder.path(), &arguments);
                assert_eq!(finished.code, Some(0), "{line}: {}", finished.stderr);
            }
        }
        run_so_far += 1;
    }
    println!("readme: {run_so_far} commands run");
    assert!(run_so_far >= 15);
    let made = [
        "results/grpo_workplace_tiny/step_1",
        "results/seed2/step_1",
        "results/tiny/config.json",
        "results/random_9b/config.json",
        "results/merged/config.json",
        "tasks/offices",
    ];
    made.iter().for_each(|path| assert!(folder.path().join(path).exists(), "{path}"));
}

/// Starts a server, on a port that is free whatever else runs here; the process and its address.
fn serve(folder: &Path, arguments: &[String]) -> (Child, String) {
    let mut arguments = arguments.to_vec();
    let port = arguments.iter().position(|word| word == "--port").expect("a port");
    arguments[port + 1] = "0".to_owned();
    let mut command = Command::new(PROGRAM);
    let mut child = command.current_dir(folder).args(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").expect("an address").to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{line}");
    (child, address)
}

/// Starts a server and ends it with Ctrl-C.
fn serve_and_stop(folder: &Path, arguments: &[String]) {
    let (mut child, _) = serve(folder, arguments);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_server_answers_the_requests_of_its_readme() {
    if Command::new("curl").arg("--version").output().is_err() {
        return println!("skipped: curl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &["env", "generate", "--output=tables", "--count=1"]).succeeded();
    let text = fs::read_to_string(repository().join("env/README.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with("nemo-burn env serve --tables")).expect("a server");
    let (mut child, address) = serve(folder.path(), &arguments_of(line).expect("arguments"));
    let requests: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("curl "))
        .map(|line| line.replace("127.0.0.1:8080", &address))
        .collect();
    let answers: Vec<String> = requests
        .iter()
        .map(|line| {
            let output = Command::new("sh").current_dir(folder.path()).args(["-c", line]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(requests.len(), 2);
    assert_eq!(answers[0], "{}");
    assert!(answers[1].starts_with("{\"output\":") && answers[1].contains("email_id"), "{}", answers[1]);
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
