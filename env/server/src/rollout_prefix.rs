//! Addresses as NeMo Gym's agents write them while calls are recorded: `/ng-rollout/ID` in front of the usual one. The
//! id is for whoever records; here it means nothing.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// Takes the prefix off, if there is one: one only, and only in front of a whole address.
pub(crate) fn strip(uri: &mut Uri) {
    let Some(path_and_query) = uri.path_and_query() else { return };
    let Some(start) = prefix_length(uri.path()) else { return };
    // What is left starts with a slash, so it is an address as well.
    if let Ok(rest) = PathAndQuery::try_from(&path_and_query.as_str()[start..]) {
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query = Some(rest);
        *uri = Uri::from_parts(parts).unwrap_or_default();
    }
}

/// Bytes of `/ng-rollout/ID`, where the id consists of letters, digits, `.`, `_` and `-` and starts with one of the
/// former two.
fn prefix_length(path: &str) -> Option<usize> {
    const PREFIX: &str = "/ng-rollout/";
    let rest = path.strip_prefix(PREFIX)?;
    let id = &rest[..rest.find('/')?];
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(is_allowed))
        .then_some(PREFIX.len() + id.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_prefix_is_taken_off() {
        for (address, expected) in [
            ("/verify", "/verify"),
            ("/ng-rollout/3-0/verify", "/verify"),
            ("/ng-rollout/3-0-a1/seed_session?x=/y", "/seed_session?x=/y"),
            ("/ng-rollout/a._-b/", "/"),
            ("/ng-rollout/a//verify", "//verify"),
            ("/ng-rollout/a/ng-rollout/b/verify", "/ng-rollout/b/verify"),
            ("/ng-rollout/a", "/ng-rollout/a"),
            ("/ng-rollout/a?b=/c", "/ng-rollout/a?b=/c"),
            ("/ng-rollout//verify", "/ng-rollout//verify"),
            ("/ng-rollout/.a/verify", "/ng-rollout/.a/verify"),
            ("/ng-rollout/a%20b/verify", "/ng-rollout/a%20b/verify"),
            ("/x/ng-rollout/a/verify", "/x/ng-rollout/a/verify"),
            ("http://host/ng-rollout/a/verify", "http://host/verify"),
        ] {
            let mut uri: Uri = address.parse().unwrap();
            strip(&mut uri);
            assert_eq!(uri.to_string(), expected, "{address}");
        }
    }
}
