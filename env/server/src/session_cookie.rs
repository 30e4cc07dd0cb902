//! Who is asking: the cookie that names a session.
//!
//! Its value is a random number and a signature under a key that is drawn when the server starts. A value that
//! somebody made up or that another server gave therefore names no session, and nobody can come upon the session of
//! another. Its value has no character that clients put into quotes, as they do with the base64 of ready-made signed
//! cookies, which are then not recognised. Every answer carries the cookie, because clients of the reference keep only those of the latest answer.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::ServerError;

/// Bytes of an id and of its signature.
const ID_BYTES: usize = 16;

/// Names a session. Its digits are a secret between server and client, so they are not shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionId([u8; ID_BYTES]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

#[cfg(test)]
impl SessionId {
    /// An id for tests of what is stored under one.
    pub(crate) fn numbered(number: u8) -> Self {
        Self([number; ID_BYTES])
    }
}

/// Makes and checks cookies.
pub(crate) struct CookieJar {
    name: String,
    keyed: Hmac<Sha256>,
    num_made: AtomicU64,
}

/// The session of a request and the header that the answer carries.
#[derive(Clone)]
pub(crate) struct Visitor {
    pub(crate) id: SessionId,
    pub(crate) set_cookie: HeaderValue,
}

impl CookieJar {
    /// A jar with a fresh key.
    pub(crate) fn new(name: &str) -> Result<Self, ServerError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(ServerError::CookieName { name: name.to_owned() });
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| ServerError::Key { what: error.to_string() })?;
        let keyed = Hmac::new_from_slice(&key).map_err(|error| ServerError::Key { what: error.to_string() })?;
        Ok(Self { name: name.to_owned(), keyed, num_made: AtomicU64::new(0) })
    }

    /// The session that the request names, or a new one if it names none of ours.
    pub(crate) fn visitor(&self, headers: &HeaderMap) -> Visitor {
        let named = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|header| header.to_str().ok())
            .flat_map(|header| header.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.name)
            .find_map(|(_, value)| self.check(value.trim_matches('"')));
        let id = named.unwrap_or_else(|| self.new_id());
        Visitor { id, set_cookie: self.set_cookie(id) }
    }

    /// Unpredictable without the key, and different each time.
    fn new_id(&self) -> SessionId {
        let number = self.num_made.fetch_add(1, Ordering::Relaxed);
        SessionId(self.digest("id", &number.to_le_bytes()))
    }

    /// A keyed digest; `purpose` keeps ids and signatures apart.
    fn digest(&self, purpose: &str, data: &[u8]) -> [u8; ID_BYTES] {
        let mut mac = self.keyed.clone();
        mac.update(purpose.as_bytes());
        mac.update(data);
        let mut digest = [0; ID_BYTES];
        digest.copy_from_slice(&mac.finalize().into_bytes()[..ID_BYTES]);
        digest
    }

    fn check(&self, value: &str) -> Option<SessionId> {
        let (id, signature) = value.split_once('.')?;
        let (id, signature) = (from_hex(id)?, from_hex(signature)?);
        let mut mac = self.keyed.clone();
        mac.update(b"signature");
        mac.update(&id);
        mac.verify_truncated_left(&signature).ok().map(|()| SessionId(id))
    }

    fn set_cookie(&self, id: SessionId) -> HeaderValue {
        let signature = self.digest("signature", &id.0);
        let mut text = String::with_capacity(self.name.len() + 128);
        text.push_str(&self.name);
        text.push('=');
        push_hex(&mut text, &id.0);
        text.push('.');
        push_hex(&mut text, &signature);
        text.push_str("; path=/; Max-Age=1209600; httponly; samesite=lax");
        // The name was checked, the rest is ASCII.
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
}

fn from_hex(text: &str) -> Option<[u8; ID_BYTES]> {
    if text.len() != 2 * ID_BYTES || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; ID_BYTES];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, cookie.parse().unwrap())])
    }

    fn value(visitor: &Visitor) -> String {
        let text = visitor.set_cookie.to_str().unwrap();
        let (pair, attributes) = text.split_once(';').unwrap();
        assert_eq!(attributes, " path=/; Max-Age=1209600; httponly; samesite=lax");
        pair.strip_prefix("name=").unwrap().to_owned()
    }

    #[test]
    fn a_cookie_leads_back_to_its_session() {
        let jar = CookieJar::new("name").unwrap();
        let first = jar.visitor(&HeaderMap::new());
        let second = jar.visitor(&HeaderMap::new());
        assert!(first.id != second.id);
        for cookie in [
            format!("name={}", value(&first)),
            format!("other=1; name={}; x=y", value(&first)),
            format!("name=wrong; name=\"{}\"", value(&first)),
        ] {
            let again = jar.visitor(&headers(&cookie));
            assert!(again.id == first.id, "{cookie}");
            assert_eq!(again.set_cookie, first.set_cookie);
        }
    }

    #[test]
    fn other_values_lead_to_a_new_session() {
        let jar = CookieJar::new("name").unwrap();
        let known = jar.visitor(&HeaderMap::new());
        let value = value(&known);
        let stranger = CookieJar::new("name").unwrap();
        let (id, signature) = value.split_once('.').unwrap();
        let flipped = if signature.ends_with('0') { "1" } else { "0" };
        for cookie in [
            String::new(),
            "name=".into(),
            "name=.".into(),
            format!("name={id}"),
            format!("name={id}.{id}"),
            format!("name={signature}.{signature}"),
            format!("name={id}.{}{flipped}", &signature[..31]),
            format!("name={id}.{}", signature.replace(|c: char| c.is_ascii_digit(), "A")),
            format!("Name={value}"),
            format!("name={}", "é".repeat(32)),
        ] {
            let cookie = HeaderValue::from_bytes(cookie.as_bytes()).unwrap();
            let visitor = jar.visitor(&HeaderMap::from_iter([(COOKIE, cookie.clone())]));
            assert!(visitor.id != known.id, "{cookie:?}");
        }
        assert!(stranger.visitor(&headers(&format!("name={value}"))).id != known.id);
        assert!(matches!(CookieJar::new("a=b"), Err(ServerError::CookieName { .. })));
    }
}
