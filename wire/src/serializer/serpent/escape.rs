//! Backslash escapes in Python's string and bytes literals.

use crate::serializer::text::TextBuilder;

/// Appends `body` to `out` with the escapes of a `str` replaced.
///
/// # Errors
/// The text of the `SyntaxError`.
pub(super) fn unescape_text(body: &str, out: &mut TextBuilder) -> Result<(), String> {
    let mut rest = body;
    // CPython reports positions in a copy in which each non-ASCII character takes ten characters.
    let position = |rest: &str| -> usize {
        body.get(..body.len() - rest.len())
            .unwrap_or(body)
            .chars()
            .map(|c| if c.is_ascii() { 1 } else { 10 })
            .sum()
    };
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let fail = |len: usize, what: &str| {
            let start = position(escape);
            format!(
                "(unicode error) 'unicodeescape' codec can't decode bytes in position \
                 {start}-{}: {what}",
                start + len - 1
            )
        };
        let mut after = escape.chars();
        after.next();
        let Some(kind) = after.next() else {
            // A body never ends in a lone backslash, because it would have escaped the quote.
            return Err(fail(1, "\\ at end of string"));
        };
        let tail = after.as_str();
        rest = match kind {
            '\n' => tail,
            'x' | 'u' | 'U' => {
                let (len, what) = match kind {
                    'x' => (2, "truncated \\xXX escape"),
                    'u' => (4, "truncated \\uXXXX escape"),
                    _ => (8, "truncated \\UXXXXXXXX escape"),
                };
                let digits = tail
                    .bytes()
                    .take(len)
                    .take_while(u8::is_ascii_hexdigit)
                    .count();
                let point = tail
                    .get(..len)
                    .filter(|_| digits == len)
                    .and_then(|hex| u32::from_str_radix(hex, 16).ok())
                    .ok_or_else(|| fail(2 + digits, what))?;
                if !out.push_point(point) {
                    return Err(fail(2 + len, "illegal Unicode character"));
                }
                tail.get(len..).unwrap_or_default()
            }
            'N' => {
                let Some((name, tail)) =
                    tail.strip_prefix('{').and_then(|tail| tail.split_once('}'))
                else {
                    let len = if tail.starts_with('{') {
                        2 + tail.len()
                    } else {
                        2
                    };
                    return Err(fail(len, "malformed \\N character escape"));
                };
                let character = named_character(name)
                    .ok_or_else(|| fail(4 + name.len(), "unknown Unicode character name"))?;
                out.push_str(character.encode_utf8(&mut [0; 4]));
                tail
            }
            '0'..='7' => {
                let (point, len) = octal(escape.as_bytes().get(1..).unwrap_or_default());
                // Three octal digits are far below the surrogates.
                let _ = out.push_point(point);
                escape.get(1 + len..).unwrap_or_default()
            }
            _ => match simple_escape(kind) {
                Some(character) => {
                    out.push_str(character.encode_utf8(&mut [0; 4]));
                    tail
                }
                // An unknown escape stands for itself.
                None => {
                    out.push_str("\\");
                    out.push_str(kind.encode_utf8(&mut [0; 4]));
                    tail
                }
            },
        };
    }
    out.push_str(rest);
    Ok(())
}

/// Returns the character with this name or alias. Like Python, it ignores case and nothing else.
fn named_character(name: &str) -> Option<char> {
    // The crate's lookup reads the byte before a hyphen, and panics if there is none.
    if name.starts_with('-') {
        return None;
    }
    let character = unicode_names2::character(name)?;
    let letters = |name: &str| -> String {
        name.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|letter| letter.to_ascii_uppercase())
            .collect()
    };
    // The crate's lookup ignores spaces, underscores and hyphens. A name that differs from the
    // character's own name by more than these is an alias.
    let is_loose = unicode_names2::name(character).is_some_and(|own| {
        let own = own.to_string();
        letters(&own) == letters(name) && !own.eq_ignore_ascii_case(name)
    });
    (!is_loose).then_some(character)
}

/// Appends `body` to `out` with the escapes of `bytes` replaced.
///
/// # Errors
/// The text of the `SyntaxError`.
pub(super) fn unescape_bytes(body: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let mut at = 0;
    while let Some(&byte) = body.get(at) {
        let escape = body.get(at + 1..).unwrap_or_default();
        at += 1;
        match escape {
            [kind, tail @ ..] if byte == b'\\' => {
                at += 1;
                match kind {
                    b'\n' => {}
                    b'x' => {
                        let digits = tail
                            .get(..2)
                            .and_then(|digits| std::str::from_utf8(digits).ok());
                        let value = digits
                            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                            .ok_or_else(|| {
                                format!("(value error) invalid \\x escape at position {}", at - 2)
                            })?;
                        out.push(value);
                        at += 2;
                    }
                    b'0'..=b'7' => {
                        let (value, len) = octal(escape);
                        // Python keeps the low eight bits.
                        out.push((value & 0xff) as u8);
                        at += len - 1;
                    }
                    _ => match simple_escape(char::from(*kind)) {
                        Some(character) => out.push(character as u8),
                        None => out.extend_from_slice(&[b'\\', *kind]),
                    },
                }
            }
            _ => out.push(byte),
        }
    }
    Ok(())
}

/// Reads up to three octal digits and returns their value and their number.
fn octal(digits: &[u8]) -> (u32, usize) {
    let digits = digits
        .iter()
        .take(3)
        .take_while(|digit| matches!(digit, b'0'..=b'7'));
    digits.fold((0, 0), |(value, len), digit| {
        (value * 8 + u32::from(*digit - b'0'), len + 1)
    })
}

const fn simple_escape(kind: char) -> Option<char> {
    Some(match kind {
        '\\' | '\'' | '"' => kind,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        _ => return None,
    })
}
