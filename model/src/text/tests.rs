//! Training a tokenizer, and its way from text to ids and back.

use super::*;

const CORPUS: [&str; 4] = [
    "<SPECIAL_10>System\nYou manage an office.\n<SPECIAL_11>User\nMove the meeting with Anna to 2024-03-01 at 10:30.\n",
    "<SPECIAL_11>Assistant\n<TOOLCALL>[{\"name\": \"calendar_search_events\", \"arguments\": {\"query\": \"Anna\"}}]</TOOLCALL><SPECIAL_12>\n",
    "<SPECIAL_11>User\n<TOOL_RESPONSE>[{\"output\": \"event_id 00000042 meeting\"}]</TOOL_RESPONSE>\n",
    "The meeting of the office is the meeting of the office, the calendar says. naïve café ☕ 日本",
];

fn train(vocab_size: usize) -> TrainedTokenizer {
    let training =
        BpeTraining { vocab_size, chat_template: Some(COMPACT_CHAT_TEMPLATE.to_owned()), ..Default::default() };
    train_bpe(&CORPUS, &training).unwrap()
}

/// Pseudo-random text of all kinds of characters.
fn any_text(seed: &mut u64) -> String {
    let mut text = String::new();
    for _ in 0..40 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (*seed >> 32) as u32;
        let limit = [0x80, 0x80, 0x250, 0x3000, 0x11_0000][(bits % 5) as usize];
        text.extend(char::from_u32((bits >> 3) % limit));
        if bits.is_multiple_of(11) {
            text.push_str(TOOL_TOKENS[(bits >> 8) as usize % TOOL_TOKENS.len()]);
        }
    }
    text
}

#[test]
fn every_text_survives_encoding() {
    let tokenizer = train(400).tokenizer;
    let mut seed = 7;
    let texts: Vec<String> =
        CORPUS.map(str::to_owned).into_iter().chain((0..300).map(|_| any_text(&mut seed))).collect();
    for text in texts {
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn special_and_tool_tokens_are_single_and_lowest() {
    let tokenizer = train(300).tokenizer;
    let specials = ["<unk>", "<s>", "</s>", "<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"];
    for (id, token) in specials.iter().chain(&TOOL_TOKENS).enumerate() {
        assert_eq!(tokenizer.encode(token).unwrap(), [id as u32], "{token}");
        assert_eq!(tokenizer.token_id(token), Some(id as u32));
        let shown = if specials.contains(token) { "" } else { token };
        assert_eq!(tokenizer.decode(&[id as u32], true).unwrap(), shown);
    }
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(1), Some(5), Some(0)));
    assert_eq!(tokenizer.vocab_size(), 300);
}

#[test]
fn digits_go_in_pairs_and_frequent_words_are_one_token() {
    let tokenizer = train(400).tokenizer;
    let digits = tokenizer.encode("2024030").unwrap();
    let pieces: Vec<String> = digits.iter().map(|id| tokenizer.decode(&[*id], false).unwrap()).collect();
    assert_eq!(pieces.concat(), "2024030");
    assert!(pieces.iter().all(|piece| piece.len() <= 2), "{pieces:?}");
    assert_eq!(tokenizer.encode("the").unwrap().len(), 1);
    // A word's tokens do not depend on what stands before it: a request's words are found again in JSON.
    let word = tokenizer.encode("meeting").unwrap();
    assert_eq!(word.len(), 1);
    for before in [" ", "'", "\"", "the ", "3"] {
        let ids = tokenizer.encode(&format!("{before}meeting")).unwrap();
        assert_eq!(ids.last(), word.last(), "{before}");
    }
}

#[test]
fn training_gives_the_same_bytes_whatever_the_threads_and_the_order() {
    let files = train(360).files;
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]);
    let mut reversed = CORPUS;
    reversed.reverse();
    let training =
        BpeTraining { vocab_size: 360, chat_template: Some(COMPACT_CHAT_TEMPLATE.to_owned()), ..Default::default() };
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let again = pool.install(|| train_bpe(&reversed, &training).unwrap().files);
        assert_eq!(again, files);
    }
}

#[test]
fn files_load_from_a_folder() {
    let trained = train(400);
    let folder = tempfile::tempdir().unwrap();
    trained.write(folder.path()).unwrap();
    let loaded = Tokenizer::load(folder.path()).unwrap();
    let text = CORPUS.concat();
    assert_eq!(loaded.encode(&text).unwrap(), trained.tokenizer.encode(&text).unwrap());
    assert_eq!(loaded.eos_id(), Some(5));
    let template = ChatTemplate::load(folder.path()).unwrap();
    assert!(template.name().ends_with("chat_template.jinja"));
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert!(Tokenizer::load(folder.path()).unwrap_err().to_string().contains("tokenizer.json"));
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert!(Tokenizer::load(folder.path()).unwrap_err().to_string().contains("holds no tokenizer.json"));
    assert!(trained.write(&folder.path().join("none")).unwrap_err().to_string().contains("cannot write"));
}

#[test]
fn a_vocabulary_that_cannot_hold_the_bytes_is_refused_and_a_small_corpus_fills_less() {
    let training = BpeTraining { vocab_size: 100, ..Default::default() };
    let message = train_bpe(&CORPUS, &training).unwrap_err().to_string();
    assert!(message.contains("100") && message.contains("270"), "{message}");
    let training = BpeTraining { vocab_size: 5000, ..Default::default() };
    let trained = train_bpe(&["abab abab"], &training).unwrap();
    assert_eq!(trained.tokenizer.vocab_size(), 270 + 2);
    assert_eq!(trained.tokenizer.decode(&trained.tokenizer.encode("ab\u{0}").unwrap(), false).unwrap(), "ab\u{0}");
}

#[test]
fn merging_never_exceeds_the_longest_token() {
    let training = BpeTraining { vocab_size: 2000, max_token_bytes: 4, ..Default::default() };
    let tokenizer = train_bpe(&CORPUS, &training).unwrap().tokenizer;
    let longest =
        (270..tokenizer.vocab_size() as u32).filter_map(|id| tokenizer.token_text(id)).map(|t| t.chars().count()).max();
    assert_eq!(longest, Some(4));
}
