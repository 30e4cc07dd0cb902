//! Why a server could not start or go on. Nothing that a client sends ends here.

use std::net::SocketAddr;

use thiserror::Error;

use crate::ServerConfig;
use nemo_env::EnvError;

/// An error of the server itself.
#[derive(Debug, Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}; choose another address or port (--host, --port)")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(
        "unknown office {office:?}; expected `office-` and a number (such as `office-0007`), or the name of a folder \
         below `offices/` in the tables folder"
    )]
    UnknownOffice { office: String },
    #[error(transparent)]
    Offices(#[from] EnvError),
    #[error("the cookie name {name:?} cannot be sent; expected ASCII letters, digits, `_`, `-` and `.`")]
    CookieName { name: String },
    #[error("{option} is 0; expected at least 1")]
    Zero { option: &'static str },
    #[error("the operating system gives no random numbers for the key of the session cookies: {what}")]
    Key { what: String },
    #[error("{found} threads; expected at most {}", ServerConfig::MAX_THREADS)]
    Threads { found: usize },
    #[error("cannot start the server's threads: {source}")]
    Start { source: std::io::Error },
}
