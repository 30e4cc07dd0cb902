//! JSON text from bytes. Its encoding is seen from its first bytes, as Python's `json.loads` sees it.

use std::borrow::Cow;

/// Why bytes are no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undecodable {
    /// Not what the encoding allows.
    Malformed,
    /// Half of a pair of UTF-16, which Python lets through.
    Surrogate(u32),
}

#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

/// The text, without a byte order mark.
pub(crate) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Undecodable> {
    match *bytes {
        [0xff, 0xfe, 0, 0, ..] => utf32(&bytes[4..], Order::Little),
        [0, 0, 0xfe, 0xff, ..] => utf32(&bytes[4..], Order::Big),
        [0xff, 0xfe, ..] => utf16(&bytes[2..], Order::Little),
        [0xfe, 0xff, ..] => utf16(&bytes[2..], Order::Big),
        [0xef, 0xbb, 0xbf, ..] => utf8(&bytes[3..]),
        // JSON starts with an ASCII character, so the zeros say how wide it is. A character of text may follow it.
        [0, 0, _, _, ..] => utf32(bytes, Order::Big),
        [0, _, _, _, ..] | [0, _] => utf16(bytes, Order::Big),
        [_, 0, 0, 0, ..] => utf32(bytes, Order::Little),
        [_, 0, _, _, ..] | [_, 0] => utf16(bytes, Order::Little),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, Undecodable> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Undecodable::Malformed)
}

fn utf16(bytes: &[u8], order: Order) -> Result<Cow<'_, str>, Undecodable> {
    let (units, rest) = bytes.as_chunks::<2>();
    let units = units.iter().map(|unit| match order {
        Order::Little => u16::from_le_bytes(*unit),
        Order::Big => u16::from_be_bytes(*unit),
    });
    let surrogate = |error: std::char::DecodeUtf16Error| Undecodable::Surrogate(error.unpaired_surrogate().into());
    if rest.is_empty() {
        char::decode_utf16(units).collect::<Result<String, _>>().map(Cow::Owned).map_err(surrogate)
    } else {
        Err(Undecodable::Malformed)
    }
}

fn utf32(bytes: &[u8], order: Order) -> Result<Cow<'_, str>, Undecodable> {
    let (units, rest) = bytes.as_chunks::<4>();
    let character = |unit: &[u8; 4]| {
        let code = match order {
            Order::Little => u32::from_le_bytes(*unit),
            Order::Big => u32::from_be_bytes(*unit),
        };
        let is_surrogate = (0xd800..0xe000).contains(&code);
        char::from_u32(code).ok_or(if is_surrogate { Undecodable::Surrogate(code) } else { Undecodable::Malformed })
    };
    if rest.is_empty() {
        units.iter().map(character).collect::<Result<String, _>>().map(Cow::Owned)
    } else {
        Err(Undecodable::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unicode_encoding_is_recognized_with_and_without_a_mark() {
        const TEXT: &str = "{\"é\":\"x😀\"}";
        let utf16 = |write: fn(u16) -> [u8; 2]| TEXT.encode_utf16().flat_map(write).collect::<Vec<u8>>();
        let utf32 = |write: fn(u32) -> [u8; 4]| TEXT.chars().map(u32::from).flat_map(write).collect::<Vec<u8>>();
        for (mark, bytes) in [
            (&b"\xef\xbb\xbf"[..], TEXT.as_bytes().to_vec()),
            (b"\xff\xfe", utf16(u16::to_le_bytes)),
            (b"\xfe\xff", utf16(u16::to_be_bytes)),
            (b"\xff\xfe\0\0", utf32(u32::to_le_bytes)),
            (b"\0\0\xfe\xff", utf32(u32::to_be_bytes)),
        ] {
            assert_eq!(decode(&bytes).as_deref(), Ok(TEXT), "{mark:?}");
            assert_eq!(decode(&[mark, &bytes].concat()).as_deref(), Ok(TEXT), "{mark:?}");
        }
    }

    #[test]
    fn short_and_broken_texts_are_what_python_takes_them_for() {
        for (bytes, expected) in [
            (&b"{\0"[..], Ok("{")),
            (b"\0{", Ok("{")),
            (b"{\0}\0", Ok("{}")),
            (b"1\0\0\0", Ok("1")),
            (b"{}\0", Ok("{}\0")),
            (b"\xff\xfe", Ok("")),
            (b"\xff\xfe\xff\xfe{\0", Ok("\u{feff}{")),
            (b"\xff", Err(Undecodable::Malformed)),
            (b"\xff\xfe{", Err(Undecodable::Malformed)),
            (b"\0\0\xfe\xff{", Err(Undecodable::Malformed)),
            (b"{\0\0\0\0\0\x11\0", Err(Undecodable::Malformed)),
            (b"\xff\xfe\x0d\xd8", Err(Undecodable::Surrogate(0xd80d))),
            (b"\0\0\0{\0\0\xdc\0", Err(Undecodable::Surrogate(0xdc00))),
        ] {
            assert_eq!(decode(bytes).as_deref().map_err(|error| *error), expected, "{bytes:?}");
        }
    }
}
