//! Help is there, everywhere, at once.

use std::time::{Duration, Instant};

use super::program::run;

#[test]
fn help_starts_in_a_tenth_of_a_second() {
    // The best of several: the machine may be busy with other tests.
    let best = (0..10)
        .map(|_| {
            let began = Instant::now();
            let text = run(&["--help"]).succeeded();
            let elapsed = began.elapsed();
            for command in ["train", "sft", "init", "merge", "generate", "plan", "eval", "env"] {
                assert!(text.contains(command), "{text}");
            }
            elapsed
        })
        .min()
        .unwrap();
    println!("help: {best:?}");
    assert!(best < Duration::from_millis(100), "{best:?}");
}

#[test]
fn every_command_explains_itself() {
    for command in [
        &["train"][..],
        &["sft"],
        &["init"],
        &["merge"],
        &["generate"],
        &["plan"],
        &["eval"],
        &["completions"],
        &["env"],
        &["env", "list"],
        &["env", "call"],
        &["env", "replay"],
        &["env", "verify"],
        &["env", "generate"],
        &["env", "templates"],
        &["env", "serve"],
        &["env", "fetch"],
        &["env", "prepare"],
        &["env", "play"],
    ] {
        let text = run(&[command, &["--help"]].concat()).succeeded();
        assert!(text.contains("Usage: nemo-burn"), "{text}");
    }
    assert!(run(&["--version"]).succeeded().starts_with("nemo-burn "));
}

#[test]
fn shells_can_complete_the_command_line() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef nemo-burn"), ("fish", "complete -c nemo-burn")] {
        let script = run(&["completions", shell]).succeeded();
        assert!(script.contains(word) && script.contains("max-new-tokens") && script.contains("prepare"), "{shell}");
    }
    run(&["completions", "dos"]).refused(&["dos", "bash"]);
}

#[test]
fn usage_errors_end_with_code_2() {
    run(&["trian"]).refused(&["trian", "train"]);
    run(&["generate"]).refused(&["--model"]);
    run(&["init", "--config=x"]).refused(&["--output"]);
    run(&["init", "--config=x", "--output=y", "--dtype=int8"]).refused(&[
        "--dtype",
        "int8",
        "float32, bfloat16, float16",
    ]);
    run(&["generate", "--model=x", "--prompt=a", "--records=b"]).refused(&["cannot be used with"]);
    run(&["plan", "--device-memory=80"]).refused(&["--device-memory", "80GiB"]);
    run(&["eval", "--model=x", "--count=0"]).refused(&["--count", "from 1 to 1000000"]);
    run(&["eval", "--model=x", "--split=test"]).refused(&["unknown split", "unseen_fillings"]);
    run(&["env", "play", "--tables=tables"]).refused(&["--records"]);
    run(&["eval", "--model=x", "--tables=tables"]).refused(&["--records"]);
    run(&["env", "fetch", "--wheel=a", "--folder=b"]).refused(&["cannot be used with"]);
    run(&["generate", "--model=x", "--prompt=a", "--temperature=-1"]).refused(&["--temperature", "at least 0"]);
}

/// Something may exclude what an option needs: then the two exclude each other.
#[test]
fn options_of_records_do_not_go_with_those_of_generated_tasks() {
    for option in ["--seed=2", "--split=train", "--suite=full"] {
        run(&["env", "play", "--id=4", option]).refused(&["cannot be used with"]);
        run(&["env", "play", "--tables=x", option]).refused(&["cannot be used with"]);
    }
    for option in ["--count=2", "--split=train", "--suite=full", "--task-seed=1", "--num-offices=2"] {
        run(&["eval", "--model=x", "--tables=x", option]).refused(&["cannot be used with"]);
    }
}

#[test]
fn numbers_out_of_place_are_refused_in_plain_words() {
    let whole = |range: &str| format!("expected a whole number from {range}");
    let any = whole("0 to 18446744073709551615");
    let one = "expected a whole number of at least 1";
    for (command, option, values, words) in [
        (&["generate", "--model=x", "--prompt=a"][..], "--seed", &["abc", "-1", "1.5"][..], &*any),
        (&["init", "--config=x", "--output=y"], "--seed", &["abc", "-1", "1.5"], &any),
        (&["generate", "--model=x", "--prompt=a"], "--top-k", &["-1", "0", "many"], one),
        (&["generate", "--model=x", "--prompt=a"], "--samples", &["-1"], one),
        (&["generate", "--model=x", "--prompt=a"], "--temperature", &["-1", "-0.5", "hot"], "a number of at least 0"),
        (&["generate", "--model=x", "--prompt=a"], "--top-p", &["-1", "0"], "a number above 0 and at most 1"),
        (&["eval", "--model=x"], "--task-seed", &["abc", "-1"], &any),
        (&["eval", "--model=x"], "--count", &["-1", "99999999999"], &whole("1 to 1000000")),
        (&["env", "generate", "--output=x"], "--count", &["0", "1e3"], &whole("1 to 1000000")),
        (&["env", "generate", "--output=x"], "--num-offices", &["99999999999"], &whole("1 to 1000")),
        (&["env", "generate", "--output=x"], "--difficulty", &["-1", "5", "hard"], &whole("1 to 4")),
        (&["env", "replay", "x"], "--id", &["nope", "-1"], &any),
        (&["env", "play", "--records=x"], "--id", &["nope"], &any),
        (&["env", "serve"], "--port", &["abc", "-1", "65536"], &whole("0 to 65535")),
        (&["env", "serve"], "--host", &["localhost", "-1"], "expected an IP address"),
        (&["env", "serve"], "--threads", &["0", "100000", "99999999"], &whole("1 to 1024")),
        (&["env", "serve"], "--max-connections", &["0", "-1"], one),
        (&["env", "serve"], "--idle-timeout", &["-1", "soon"], &any),
    ] {
        for value in values {
            run(&[command, &[option, value]].concat()).refused(&[option, value, words]);
        }
    }
}
