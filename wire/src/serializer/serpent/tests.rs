use super::*;
use crate::{Family, Serializer, repr};

const DIALECT: Dialect = Dialect::new(Family::Pyro5, Serializer::Serpent);

fn read(text: &str) -> Result<Value, Exception> {
    decode(text.as_bytes(), &Limits::default())
}

/// Returns the `repr()` of the value, or class and text of the error.
fn shown(text: &str) -> String {
    match read(text) {
        Ok(value) => repr::repr(&value),
        Err(error) => format!("{}: {}", error.class.name(), repr::text(&error.args[0])),
    }
}

fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(shown(text), *expected, "{text:?}");
    }
}

/// The expected texts are those of CPython 3.11 for `repr(ast.literal_eval(text))`.
#[test]
fn literals_mean_what_they_mean_in_python() {
    check(&[
        ("None", "None"),
        ("(True,False)", "(True, False)"),
        ("...", "Ellipsis"),
        ("()", "()"),
        ("(1)", "1"),
        ("(1,)", "(1,)"),
        ("1,2", "(1, 2)"),
        ("[1,2,]", "[1, 2]"),
        ("{1,2,}", "{1, 2}"),
        ("{}", "{}"),
        ("set()", "set()"),
        ("[set( )]", "[set()]"),
        ("{'a':1,'a':2}", "{'a': 2}"),
        ("{1:'a',True:'b',1.0:'c'}", "{1: 'c'}"),
        ("{1,True,1.0}", "{1}"),
        (
            "# serpent utf-8 python3.2\n\n#\n[ 1 ,\n# in the middle\n 2 ] # end\n#\n \n",
            "[1, 2]",
        ),
        (" \t1", "1"),
        ("\x0c1", "1"),
        ("\\\n1", "1"),
        ("[1,\\\r\n2\r]", "[1, 2]"),
    ]);
}

#[test]
fn numbers_mean_what_they_mean_in_python() {
    check(&[
        ("[0x1F,0b1_0,0o17,0XF,0x_f]", "[31, 2, 15, 15, 15]"),
        ("[1_000,00,0_0]", "[1000, 0, 0]"),
        ("[-7,+7,- 1,-(1)]", "[-7, 7, -1, -1]"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("9223372036854775808", "9223372036854775808"),
        (
            "[1.,.5,1e3,1.5E-7,1_0.0_1,09.5,1e16]",
            "[1.0, 0.5, 1000.0, 1.5e-07, 10.01, 9.5, 1e+16]",
        ),
        ("[1e30000,-1e30000]", "[inf, -inf]"),
        (
            "[2j,1+2j,-1.5-2.5j,(1)+(2j),0_1j]",
            "[2j, (1+2j), (-1.5-2.5j), (1+2j), 1j]",
        ),
        // Adding a zero makes the negative zero positive.
        ("-0.0+2j", "2j"),
        ("-0.0-2j", "(-0-2j)"),
    ]);
    assert_eq!(
        read("-9223372036854775808"),
        Ok(Value::Int(i64::MIN)),
        "the smallest form is used"
    );
}

#[test]
fn strings_mean_what_they_mean_in_python() {
    check(&[
        (r#"'it\'s'"#, r#""it's""#),
        (r"'\a\b\f\n\r\t\v\\'", r"'\x07\x08\x0c\n\r\t\x0b\\'"),
        (r"'\x41\u0042\U00000043\104\0'", r"'ABCD\x00'"),
        (r"'\400'", "'Ā'"),
        (r"'\8\q'", r"'\\8\\q'"),
        (r"'\é\\x41'", r"'\\é\\x41'"),
        (
            r"'\N{latin Small letter a}\N{LF}\N{HYPHEN-MINUS}'",
            r"'a\n-'",
        ),
        (r"'\N{SPACE}\N{latin small letter a}'", "' a'"),
        ("'a\\\nb'", "'ab'"),
        ("'''a'b''\n\"'''", "'a\\'b\\'\\'\\n\"'"),
        ("'''\r\n\r'''", r"'\n\n'"),
        (r"r'\n\''", r#""\\n\\'""#),
        ("(u'a' 'b' \"c\" r'd'\n'''e''')", "'abcde'"),
        (r"b'a\xff\101\n\q'", r"b'a\xffA\n\\q'"),
        (r"Rb'\x' bR'y'", r"b'\\xy'"),
        ("'\u{1}\u{7f}\t\u{85}\u{2028}'", r"'\x01\x7f\t\x85\u2028'"),
        // The two halves of a pair stay two code points if they are written as escapes.
        (r"'\ud83d\ude00'", r"'\ud83d\ude00'"),
        (r"'\ud800é'", r"'\ud800é'"),
    ]);
}

/// The expected classes and first arguments are those of CPython 3.11.
#[test]
fn what_is_no_literal_is_refused_as_python_does() {
    let escape = |position: &str, what: &str| {
        format!(
            "SyntaxError: (unicode error) 'unicodeescape' codec can't decode bytes in position \
             {position}: {what}"
        )
    };
    check(&[
        ("", "SyntaxError: invalid syntax"),
        ("#", "SyntaxError: invalid syntax"),
        ("(1", "SyntaxError: '(' was never closed"),
        ("[{1:", "SyntaxError: '{' was never closed"),
        (
            "(1]",
            "SyntaxError: closing parenthesis ']' does not match opening parenthesis '('",
        ),
        (
            "(\n1]",
            "SyntaxError: closing parenthesis ']' does not match opening parenthesis '(' on line 1",
        ),
        ("1)", "SyntaxError: unmatched ')'"),
        (
            "[1 2]",
            "SyntaxError: invalid syntax. Perhaps you forgot a comma?",
        ),
        ("[1,,2]", "SyntaxError: invalid syntax"),
        ("1\n2", "SyntaxError: invalid syntax"),
        ("\n 1", "IndentationError: unexpected indent"),
        ("1\n ", "IndentationError: unexpected indent"),
        (
            "{1:}",
            "SyntaxError: expression expected after dictionary key and ':'",
        ),
        ("{1:2,3}", "SyntaxError: ':' expected after dictionary key"),
        (
            "'a",
            "SyntaxError: unterminated string literal (detected at line 1)",
        ),
        (
            "'a\nb'",
            "SyntaxError: unterminated string literal (detected at line 1)",
        ),
        (
            "'''a",
            "SyntaxError: unterminated triple-quoted string literal (detected at line 1)",
        ),
        (
            "'a' b'b'",
            "SyntaxError: cannot mix bytes and nonbytes literals",
        ),
        (
            "b'é'",
            "SyntaxError: bytes can only contain ASCII literal characters",
        ),
        (
            r"b'\x1'",
            r"SyntaxError: (value error) invalid \x escape at position 0",
        ),
        (r"'é\x1'", &escape("10-12", r"truncated \xXX escape")),
        (r"'\u12'", &escape("0-3", r"truncated \uXXXX escape")),
        (r"'\U00110000'", &escape("0-9", "illegal Unicode character")),
        (
            r"'\N{no such name}'",
            &escape("0-15", "unknown Unicode character name"),
        ),
        (r"'\Nx'", &escape("0-1", r"malformed \N character escape")),
        // Found by fuzzing: the lookup of names panicked.
        (
            r"'\N{-a}'",
            &escape("0-5", "unknown Unicode character name"),
        ),
        (
            r"'\N{LATIN_SMALL_LETTER_A}'",
            &escape("0-23", "unknown Unicode character name"),
        ),
        (
            r"'\N{LATINSMALLLETTERA}'",
            &escape("0-20", "unknown Unicode character name"),
        ),
        ("0x", "SyntaxError: invalid hexadecimal literal"),
        ("0o8", "SyntaxError: invalid digit '8' in octal literal"),
        ("1__0", "SyntaxError: invalid decimal literal"),
        ("1e", "SyntaxError: invalid decimal literal"),
        ("1x", "SyntaxError: invalid decimal literal"),
        ("“", "SyntaxError: invalid character '“' (U+201C)"),
        (
            "\u{feff}1",
            "SyntaxError: invalid non-printable character U+FEFF",
        ),
        (
            "\\ 1",
            "SyntaxError: unexpected character after line continuation character",
        ),
        ("{[]:1}", "TypeError: unhashable type: 'list'"),
        ("{(1,{})}", "TypeError: unhashable type: 'dict'"),
        (
            "'\0'",
            "ValueError: The serpent data contains 0-bytes so it cannot be parsed by \
             ast.literal_eval. Has it been corrupted?",
        ),
    ]);
}

#[test]
fn expressions_that_are_no_literals_are_named_by_their_node() {
    let cases = [
        ("x", "Name"),
        ("f(1)", "Call"),
        ("set(1)", "Call"),
        ("x.y", "Attribute"),
        ("'a'[0]", "Subscript"),
        ("f'a' 'b'", "JoinedStr"),
        ("'b' f'a'", "JoinedStr"),
        ("--1", "UnaryOp"),
        ("~1", "UnaryOp"),
        ("not 1", "UnaryOp"),
        ("-True", "Constant"),
        ("1+'a'", "Constant"),
        ("1+2", "BinOp"),
        ("1+2j+3j", "BinOp"),
        ("1*2", "BinOp"),
        ("1<2", "Compare"),
        ("1 and 2", "BoolOp"),
        ("1 if 2 else 3", "IfExp"),
        ("lambda: 0", "Lambda"),
        ("[*x]", "Starred"),
    ];
    for (text, node) in cases {
        let expected =
            format!("ValueError: malformed node or string on line 2: <ast.{node} object>");
        assert_eq!(shown(&format!("# header\n{text}")), expected, "{text}");
    }
}

#[test]
fn syntax_errors_say_where() {
    let place = |text: &str| repr::repr(&read(text).unwrap_err().args[1]);
    assert_eq!(place(""), "('<unknown>', 0, 0, '', 0, 0)");
    assert_eq!(place("#\n('a',"), "('<unknown>', 2, 1, \"('a',\", 2, 0)");
    assert_eq!(place("#\n\n 1\n"), r"('<unknown>', 3, 1, ' 1\n', 3, -1)");
    assert_eq!(place("['é', ;]"), "('<unknown>', 1, 7, \"['é', ;]\", 1, 8)");
}

#[test]
fn brackets_may_be_nested_200_deep() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(&nested(200)).is_ok());
    assert_eq!(
        shown(&nested(201)),
        "SyntaxError: too many nested parentheses"
    );
    // Far beyond the limit, and in the mixture that uses the most stack in the reader.
    assert_eq!(
        shown(&"{1:[(".repeat(1_000_000)),
        "SyntaxError: too many nested parentheses"
    );
    assert_eq!(
        shown(&"-".repeat(1_000_000)),
        "ValueError: malformed node or string on line 1: <ast.UnaryOp object>"
    );
}

#[test]
fn values_are_counted() {
    let limits = Limits {
        value_count_max: 3,
        ..Limits::default()
    };
    assert!(decode(b"[1,2]", &limits).is_ok());
    let error = decode(b"[1,2,3]", &limits).unwrap_err();
    assert_eq!(error.class.name(), "MessageTooLargeError");
}

#[test]
fn ints_beyond_4300_digits_are_refused_in_decimal_only() {
    assert!(read(&"1".repeat(4300)).is_ok());
    assert!(shown(&"1".repeat(4301)).starts_with("SyntaxError: Exceeds the limit (4300 digits)"));
    assert!(read(&format!("0x{}", "1".repeat(4301))).is_ok());
}

fn written(dialect: Dialect, value: &Value) -> String {
    let mut out = Vec::new();
    encode(dialect, value, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.strip_prefix("# serpent utf-8 python3.2\n")
        .unwrap()
        .to_owned()
}

#[test]
fn values_are_written_as_serpent_writes_them() {
    let cases = [
        (
            Value::Float(f64::NAN),
            "{'__class__':'float','value':'nan'}",
        ),
        (Value::Float(f64::NEG_INFINITY), "-1e30000"),
        (Value::Complex(1.0, -2.5), "(1.0-2.5j)"),
        (Value::Complex(-0.0, f64::INFINITY), "(-0.0+1e30000j)"),
        (
            Value::Bytes(b"ab".to_vec()),
            "{'data': 'YWI=', 'encoding': 'base64'}",
        ),
        (
            Value::Bytes(b"\xff\xfe\xfd".to_vec()),
            "{'data': '//79', 'encoding': 'base64'}",
        ),
        (
            Value::Bytes(Vec::new()),
            "{'data': '', 'encoding': 'base64'}",
        ),
        (Value::Tuple(vec![Value::Int(1)]), "(1,)"),
        (Value::Set(Vec::new()), "()"),
        (Value::Set(vec!["a".into(), Value::Int(1)]), "{'a',1}"),
        (Value::SurrogateStr([0xd800, 0x27].into()), "\"\\ud800'\""),
        (
            Value::Dict(vec![(
                "k".into(),
                Value::List(vec![Value::None, Value::Bool(true)]),
            )]),
            "{'k':[None,True]}",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(written(DIALECT, &value), expected);
    }
}

#[test]
fn python2_gets_tuples_for_sets() {
    let python2 = Dialect {
        python2: true,
        ..DIALECT
    };
    let set = |items: &[&str]| Value::Set(items.iter().map(|item| Value::from(*item)).collect());
    assert_eq!(written(python2, &set(&["a"])), "('a',)");
    assert_eq!(written(python2, &set(&["a", "b"])), "('a','b')");
    let uri = Uri::meta(["a".to_owned()].into(), None);
    assert_eq!(
        written(python2, &Value::Uri(Box::new(uri))),
        "{'__class__':'Pyro5.core.URI','state':('PYROMETA',('a',),None,None,None)}"
    );
}

#[test]
fn keys_that_serpent_refuses_are_refused() {
    for key in [Value::None, Value::FrozenSet(Vec::new())] {
        let dict = Value::Dict(vec![(key.clone(), Value::None)]);
        assert!(encode(DIALECT, &dict, &mut Vec::new()).is_err());
        assert!(encode(DIALECT, &Value::Set(vec![key]), &mut Vec::new()).is_err());
    }
}
