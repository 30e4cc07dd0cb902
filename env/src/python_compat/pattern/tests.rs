use super::*;

fn error(pattern: &str) -> String {
    compile(&pattern.into()).map_or_else(|e| e.text, |_| "compiles".into())
}

fn matches(pattern: &str, text: &str) -> bool {
    compile(&pattern.into()).is_ok_and(|regex| regex.is_match(text))
}

#[test]
fn malformed_patterns_have_pythons_texts() {
    for (pattern, expected) in [
        ("(", "missing ), unterminated subpattern at position 0"),
        ("a(b", "missing ), unterminated subpattern at position 1"),
        ("a)", "unbalanced parenthesis at position 1"),
        ("[a", "unterminated character set at position 0"),
        ("*", "nothing to repeat at position 0"),
        ("a|*", "nothing to repeat at position 2"),
        ("^*", "nothing to repeat at position 1"),
        ("a**", "multiple repeat at position 2"),
        ("x{2,1}", "min repeat greater than max repeat at position 2"),
        ("\\", "bad escape (end of pattern) at position 0"),
        ("\\q", "bad escape \\q at position 0"),
        ("[z-a]", "bad character range z-a at position 1"),
        ("[\\d-z]", "bad character range \\d-z at position 1"),
        ("(?z)", "unknown extension ?z at position 1"),
        ("\\x4", "incomplete escape \\x4 at position 0"),
        ("\\1", "invalid group reference 1 at position 1"),
        ("a(?i)b", "global flags not at the start of the expression at position 1"),
        ("a\n(", "missing ), unterminated subpattern at position 2 (line 2, column 1)"),
        ("(?P<n>a)(?i:(?P<n>b))", "redefinition of group name 'n' as group 2; was group 1 at position 16"),
        ("(?#c)*", "nothing to repeat at position 5"),
        ("\\101\\", "bad escape (end of pattern) at position 4"),
        ("{(?i)b", "global flags not at the start of the expression at position 1"),
        ("(?-)", "missing flag at position 3"),
        ("a|(?i)b", "global flags not at the start of the expression at position 2"),
        ("(?=a)", "look-around is not supported at position 0"),
        ("(a)\\1", "back-reference is not supported at position 3"),
    ] {
        assert_eq!(error(pattern), expected, "{pattern:?}");
    }
}

#[test]
fn inline_flags_are_checked_as_python_checks_them() {
    let bad = |reason: &str| format!("bad inline flags: {reason}");
    let (no_locale, one_type) =
        (bad("cannot use 'L' flag with a str pattern"), bad("flags 'a', 'u' and 'L' are incompatible"));
    let (stay_on, both) = (bad("cannot turn off flags 'a', 'u' and 'L'"), bad("flag turned on and off"));
    for (pattern, reason, position) in [
        ("(?L:a)", &*no_locale, 3),
        ("(?L)a", &no_locale, 3),
        ("(?L", &no_locale, 3),
        ("a(?iL:b)", &no_locale, 5),
        ("(?au:x)", &one_type, 4),
        ("(?ua-i)", &one_type, 4),
        ("(?-L:a)", &stay_on, 4),
        ("(?i-a:a)", &stay_on, 5),
        ("(?-u", &stay_on, 4),
        ("(?i-i:x)", &both, 5),
        ("(?m-sm:x)", &both, 6),
        ("(?i-s)x", "missing :", 5),
        ("(?-i", "missing :", 4),
        ("(?i", "missing -, : or )", 3),
        ("(?i1)", "missing -, : or )", 3),
        ("(?i-", "missing flag", 4),
        ("(?-:a)", "missing flag", 3),
        ("(?iz:a)", "unknown flag", 3),
        ("(?i-z:a)", "unknown flag", 4),
        ("(?iié:a)", "unknown flag", 4),
        ("(?i:a", "missing ), unterminated subpattern", 0),
    ] {
        assert_eq!(error(pattern), format!("{reason} at position {position}"), "{pattern:?}");
    }
    for pattern in ["(?ii:a)", "(?aa:x)", "(?u-i:a)", "(?sm-i:a)", "(?ai-s:x)", "(?x-ms:a)"] {
        assert_eq!(error(pattern), "compiles", "{pattern:?}");
    }
}

#[test]
fn deep_and_long_patterns_are_refused_in_time() {
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(matches(&nested(100), "a"));
    assert_eq!(error(&nested(101)), "nesting beyond 100 groups is not supported at position 100");
    assert_eq!(error(&"(".repeat(8_000)), "nesting beyond 100 groups is not supported at position 100");
    for large in ["(".repeat(1_000_000), r"\w".repeat(5_000), r"\w{1000}".into(), "((a{100}){100}){100}".into()] {
        assert_eq!(error(&large), "pattern too large or not supported");
    }
    assert!(matches(r"(\w+\s?){40}\w", &"word ".repeat(50)));
    // Groups side by side are not nested.
    assert!(matches(&"(a)".repeat(200), &"a".repeat(200)));
    assert!(matches(&format!("x{{{}", "1".repeat(1_000)), &format!("x{{{}", "1".repeat(1_000))));
}

#[test]
fn meaning_is_kept() {
    for (pattern, text, expected) in [
        ("sync.up", "Sync up", true),
        ("a|^board", "Board", true),
        ("e$", "hope\n", true),
        ("e$", "hope\n\n", false),
        ("a{2}", "baab", true),
        ("a{,2}b", "b", true),
        ("a{x}", "a{x}", true),
        ("{", "{", true),
        ("a{}", "a{}", true),
        ("[]a]", "]", true),
        ("[^]a]", "]a", false),
        ("[a&&b]", "&", true),
        ("[[]", "[", true),
        ("\\w+@", "luis.ortiz@atlas.com", true),
        ("\\bteam\\b", "a Team!", true),
        ("back\\\\slash", "back\\slash", true),
        ("(?P<x>ab)+", "ABAB", true),
        ("(?:a|b)+?c", "abc", true),
        ("\u{17f}", "s", true),
        ("\\x41", "a", true),
        ("ab*", "a", true),
        ("#-~ \"", "#-~ \"", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern:?} in {text:?}");
    }
}

#[test]
fn other_types_are_refused() {
    let error = |value: Value| compile(&value).map_or_else(|e| e.text, |_| String::new());
    assert_eq!(error(Value::List(vec![].into())), "unhashable type: 'list'");
    assert_eq!(error(Value::Int(5)), "first argument must be string or compiled pattern");
}

#[test]
fn plain_patterns_mean_what_the_engine_takes_them_for() {
    let texts = [
        "",
        "a",
        "A.B",
        "axb",
        "a\nb",
        "Kim.Lee@Example.com",
        "kim lee",
        "\u{212a}im",
        "\u{17f}ync up",
        "sync up\n",
        "ﬀ.ß",
    ];
    for pattern in ["", ".", "a.b", "KIM", "kim.lee@example.com", "s", "sync.up", "..", "-", "lee "] {
        let Ok(plain @ Pattern::Plain { .. }) = compile(&pattern.into()) else {
            panic!("{pattern:?} is not plain");
        };
        let regex = build(pattern).unwrap();
        for text in texts {
            assert_eq!(plain.is_match(text), regex.is_match(text), "{pattern:?} in {text:?}");
        }
    }
    for pattern in ["a|b", "a+", "(a)", "[a]", "^a", "a$", "a\\b", "é", "a{2}", "a*", "a?"] {
        assert!(matches!(compile(&pattern.into()), Ok(Pattern::Regex(_))), "{pattern:?}");
    }
}

#[test]
fn letters_and_words_are_those_of_python() {
    let accent = "\u{301}";
    for (pattern, text, expected) in [
        ("i", "İ", true),
        ("İ", "x ı", true),
        ("ı", "I", true),
        ("[a-z]", "İ", true),
        ("[A-Z]", "ı", true),
        ("[j-z]", "ı", false),
        ("[^i]", "ı", false),
        ("[İ]", "i", true),
        ("(?-i:i)", "I", false),
        ("(?-i:i)", "ı", false),
        ("(?-i:(?i:i))", "ı", true),
        ("k", "\u{212a}", true),
        ("ſ", "S", true),
        ("ß", "ẞ", true),
        ("ss", "ß", false),
        ("Σ", "ς", true),
        ("\\w", "½", true),
        ("\\w", "²", true),
        ("[\\W]", "½", false),
        ("\\w", accent, false),
        ("\\w", "\u{345}", false),
        ("\\w", "‿", false),
        ("\\w", "Ⓐ", false),
        ("\\d", "²", false),
        ("\\d", "٣", true),
        ("(?a)\\d", "٣", false),
        ("(?a)\\w", "é", false),
        ("(?a:\\w)\\w", "eé", true),
        ("(?a)k", "\u{212a}", false),
        ("(?a)K", "k", true),
        ("(?a)É", "é", false),
        ("(?a)i", "İ", false),
        ("(?i)(?#comment)(?a)\\w", "é", false),
        ("^a(?#comment)*$", "aaa", true),
        ("(?x) a b # c\n \\  [ ]", "ab  ", true),
        ("(?x)a #", "b", false),
        ("(?x: a ) b", "a b", true),
        ("(?a)\\s", "\u{a0}", false),
        ("\\s", "\u{1c}", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern:?} in {text:?}");
    }
}
