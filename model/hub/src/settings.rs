//! Where the hub is, who asks, and where files are kept.

use std::path::PathBuf;
use std::time::Duration;

use crate::HubError;

const ENDPOINT: &str = "https://huggingface.co";
/// After so long without a byte a connection is given up, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where the hub is, who asks, and where files are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    pub endpoint: String,
    /// The folder of `datasets--…` and `models--…`.
    pub cache: PathBuf,
    /// Sent to the endpoint's own host only.
    pub token: Option<String>,
    /// Take files from the cache only.
    pub is_offline: bool,
    /// How long a connection may be silent.
    pub timeout: Duration,
}

impl HubSettings {
    /// The settings that `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `XDG_CACHE_HOME`, `HOME`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`) and `HF_HUB_DOWNLOAD_TIMEOUT` stand for, as in
    /// Python, and the older names `HUGGINGFACE_HUB_CACHE` and `HUGGING_FACE_HUB_TOKEN` of two of them. Without a token
    /// in the variables the one that a login has left in `HF_HOME` is used.
    ///
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` withholds both: in Python it leaves only tokens that a program hands over itself,
    /// and those of variables and logins are not.
    ///
    /// # Errors
    /// The time-out is no number of seconds above 0.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let folder = |name: &str| {
            let value = set(name)?;
            Some(match value.strip_prefix("~/") {
                Some(rest) => PathBuf::from(set("HOME").unwrap_or_default()).join(rest),
                None => PathBuf::from(value),
            })
        };
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .unwrap_or_else(|| folder("HOME").unwrap_or_default().join(".cache/huggingface"));
        let saved_token = || {
            let text = std::fs::read_to_string(folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"))).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let is_on = |name: &str| {
            set(name).is_some_and(|value| matches!(&*value.to_ascii_uppercase(), "1" | "ON" | "YES" | "TRUE"))
        };
        let timeout = match set("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => TIMEOUT,
            Some(value) => match value.parse::<u32>() {
                Ok(seconds) if seconds > 0 => Duration::from_secs(seconds.into()),
                _ => return Err(HubError::Timeout { value }),
            },
        };
        Ok(Self {
            endpoint: set("HF_ENDPOINT")
                .map_or_else(|| ENDPOINT.to_owned(), |url| url.trim_end_matches('/').to_owned()),
            token: (!is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
                .then(|| set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(saved_token))
                .flatten(),
            is_offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            cache: folder("HF_HUB_CACHE")
                .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home.join("hub")),
            timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
        .unwrap()
    }

    #[test]
    fn variables_mean_what_they_mean_in_python() {
        let plain = settings(&[("HOME", "/home/kim")]);
        assert_eq!(plain.cache, Path::new("/home/kim/.cache/huggingface/hub"));
        assert_eq!((&*plain.endpoint, plain.token, plain.is_offline), (ENDPOINT, None, false));
        let home = [("HOME", "/home/kim"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/cache")];
        assert_eq!(settings(&home).cache, Path::new("/cache"));
        assert_eq!(settings(&home[..3]).cache, Path::new("/hf/hub"));
        assert_eq!(settings(&home[..2]).cache, Path::new("/x/huggingface/hub"));
        let asked =
            settings(&[("HF_TOKEN", " hf_1 "), ("HF_ENDPOINT", "http://127.0.0.1:1/"), ("HF_HUB_OFFLINE", "true")]);
        assert_eq!(
            (asked.token.as_deref(), &*asked.endpoint, asked.is_offline),
            (Some("hf_1"), "http://127.0.0.1:1", true)
        );
        assert_eq!(settings(&[("HOME", "/home/kim"), ("HF_HOME", "~/hf")]).cache, Path::new("/home/kim/hf/hub"));
        let older = settings(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")]);
        assert_eq!((&*older.cache, older.token.as_deref()), (Path::new("/old"), Some("hf_old")));
        assert_eq!(plain.timeout, Duration::from_secs(10));
        assert_eq!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "30")]).timeout, Duration::from_secs(30));
        assert!(HubSettings::from_variables(|name| (name == "HF_HUB_DOWNLOAD_TIMEOUT").then(|| "0".into())).is_err());
        assert!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).is_offline);
        for off in ["0", "", "no", "false"] {
            assert!(!settings(&[("HF_HUB_OFFLINE", off)]).is_offline, "{off:?}");
        }
    }

    #[test]
    fn a_login_leaves_its_token_in_the_home_folder() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_saved\n").unwrap();
        let path = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", path)]).token.as_deref(), Some("hf_saved"));
        assert_eq!(settings(&[("HF_HOME", path), ("HF_TOKEN", "hf_2")]).token.as_deref(), Some("hf_2"));
        let elsewhere = home.path().join("token");
        let named = [("HF_HOME", "/nowhere"), ("HF_TOKEN_PATH", elsewhere.to_str().unwrap())];
        assert_eq!(settings(&named).token.as_deref(), Some("hf_saved"));
        let withheld = |value: &str, source: (&str, &str)| {
            settings(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", value), source]).token.is_none()
        };
        for source in [("HF_HOME", path), ("HF_TOKEN", "hf_2"), ("HUGGING_FACE_HUB_TOKEN", "hf_2")] {
            assert!(withheld("1", source) && withheld("true", source) && !withheld("0", source), "{source:?}");
        }
    }
}
