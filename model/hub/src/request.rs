//! Requests to the hub: redirects are followed here, so that the token goes to the hub's own host only.

use ureq::Body;
use ureq::http::{HeaderMap, Response};
use url::{Origin, Url};

use crate::error::advice;
use crate::{Failure, HubError, HubSettings, Kind, Repository, is_for_now, retry_after};

const USER_AGENT: &str = concat!("nemo-burn/", env!("CARGO_PKG_VERSION"));
const MAX_REDIRECTS: usize = 10;

/// One way to ask the hub.
pub(crate) struct Client {
    agent: ureq::Agent,
    endpoint: Url,
    token: Option<String>,
}

/// An answer, and the headers of all answers on the way to it, the hub's first.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) headers: Vec<HeaderMap>,
}

impl Answer {
    /// The first value of a header on the way.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|headers| text(headers, name))
    }

    /// The last value of a header on the way.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find_map(|headers| text(headers, name))
    }
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

impl Client {
    pub(crate) fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let bad = |problem: String| HubError::Endpoint { endpoint: settings.endpoint.clone(), problem };
        let endpoint = Url::parse(&settings.endpoint).map_err(|error| bad(error.to_string()))?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err(bad("neither http nor https".to_owned()));
        }
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .timeout_per_write(Some(settings.timeout))
            .user_agent(USER_AGENT)
            // Redirects are followed below, and statuses told apart.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .build();
        Ok(Self { agent: config.into(), endpoint, token: settings.token.clone() })
    }

    /// Address of a repository's page or, with more parts, of what belongs to it.
    fn url(&self, repository: &Repository, parts: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
            if repository.kind == Kind::DataSet {
                path.push("datasets");
            }
            // A revision with a slash is one part, a file in a folder is several.
            path.extend(repository.name.split('/')).extend(parts);
        }
        url
    }

    /// Asks for a file from a byte on, or for its first byte only. Redirects are followed until `is_enough` of an
    /// answer.
    pub(crate) fn get(
        &self,
        repository: &Repository,
        file: &str,
        range: Option<&str>,
        attempt: u32,
        is_enough: impl Fn(&Answer) -> bool,
    ) -> Result<Answer, Failure<HubError>> {
        let place = repository.place(file);
        let mut parts = vec!["resolve", &repository.revision];
        parts.extend(file.split('/'));
        let mut url = self.url(repository, &parts);
        let mut token = self.token.as_deref();
        let mut headers = Vec::new();
        for _ in 0..=MAX_REDIRECTS {
            // Once away from the hub's host the token stays at home, even if the way leads back.
            token = token.filter(|_| is_same_host(&self.endpoint, &url));
            let mut request = self.agent.get(url.as_str()).header("accept-encoding", "identity");
            if let Some(range) = range {
                request = request.header("range", range);
            }
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| {
                let host = url.host_str().unwrap_or_default();
                let problem = format!("{host}: {error}");
                let error = HubError::Connection { place: place.clone(), problem, attempts: attempt };
                Failure::ForNow(error, None)
            })?;
            headers.push(response.headers().clone());
            let answer = Answer { response, headers };
            let status = answer.response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return self.judge(answer, repository, file, attempt);
            }
            if is_enough(&answer) {
                return Ok(answer);
            }
            let refused = |problem: String| Failure::ForGood(HubError::Answer { place: place.clone(), problem });
            let location = text(answer.response.headers(), "location")
                .ok_or_else(|| refused(format!("{url} redirects (status {status}) without a Location")))?;
            let next =
                url.join(location).map_err(|error| refused(format!("{url} redirects to {location}: {error}")))?;
            if !matches!(next.scheme(), "http" | "https") {
                return Err(refused(format!("{url} redirects to {next}, which is neither http nor https")));
            }
            url = next;
            headers = answer.headers;
        }
        let problem = format!("more than {MAX_REDIRECTS} redirects, the last to {url}");
        Err(Failure::ForGood(HubError::Answer { place, problem }))
    }

    /// An answer that is no redirect: good, or a failure.
    fn judge(
        &self,
        answer: Answer,
        repository: &Repository,
        file: &str,
        attempts: u32,
    ) -> Result<Answer, Failure<HubError>> {
        let status = answer.response.status().as_u16();
        // A range that does not exist is for the caller to understand.
        if matches!(status, 200 | 206 | 416) {
            return Ok(answer);
        }
        let code = answer.last("x-error-code").unwrap_or_default();
        let page = self.url(repository, &[]);
        let error = HubError::Status {
            place: repository.place(file),
            status,
            details: if code.is_empty() { String::new() } else { format!(" ({code})") },
            attempts,
            advice: advice(status, code, page.as_str(), self.token.is_some()),
        };
        match is_for_now(status) {
            true => Err(Failure::ForNow(error, retry_after(answer.response.headers()))),
            false => Err(Failure::ForGood(error)),
        }
    }
}

/// Whether a token for `hub` may be sent to `url`: the same host and port, or the same host made secure.
fn is_same_host(hub: &Url, url: &Url) -> bool {
    let made_secure = |origin: &Origin| match origin {
        Origin::Tuple(scheme, host, 80) if scheme == "http" => Origin::Tuple("https".to_owned(), host.clone(), 443),
        origin => origin.clone(),
    };
    let (hub, url) = (hub.origin(), url.origin());
    url == hub || url == made_secure(&hub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stays_with_its_host() {
        let may = |hub: &str, url: &str| is_same_host(&Url::parse(hub).unwrap(), &Url::parse(url).unwrap());
        assert!(may("https://hub.co", "https://hub.co:443/a") && may("http://hub.co", "https://hub.co/a"));
        for other in ["http://hub.co/a", "https://cdn.hub.co/a", "https://hub.co:8443/a", "https://hub.co@evil.io/"] {
            assert!(!may("https://hub.co", other), "{other}");
        }
        assert!(!may("http://127.0.0.1:80", "http://localhost:80/"));
    }
}
