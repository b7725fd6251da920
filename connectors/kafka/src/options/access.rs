//! How a cluster is reached: TLS and authentication.

use std::path::PathBuf;

use millstream_core::{Result, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wrong;

/// TLS. Given at all, or by the scheme `kafka+tls`, connections are encrypted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaTls {
    /// A PEM file with the authorities to trust. By default those of the operating system.
    pub ca: Option<PathBuf>,
    /// A PEM file with our own certificate, for brokers that ask for one.
    pub cert: Option<PathBuf>,
    /// A PEM file with the private key of our certificate.
    pub key: Option<PathBuf>,
    /// The password of that key.
    pub key_password: Option<Secret<String>>,
    /// Whether to check the broker's certificate and name. Without it anybody can pretend to be the broker.
    #[serde(default = "yes")]
    pub verify: bool,
}

fn yes() -> bool {
    true
}

/// Authentication by SASL. The URL's `user:password@` stands for `user` and `password`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaAuth {
    /// How the broker checks us. By default `plain`, and `oauthbearer` with a `token`.
    pub mechanism: Option<Mechanism>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret<String>>,
    /// Where a bearer token comes from.
    pub token: Option<TokenFrom>,
}

/// A mechanism of SASL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mechanism {
    /// User and password as they are: only over TLS.
    Plain,
    /// SCRAM-SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    /// A bearer token.
    Oauthbearer,
}

impl Mechanism {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::Oauthbearer => "OAUTHBEARER",
        }
    }
}

/// Where a bearer token comes from. It is asked for again before it expires. A command may take as long as `timeout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenFrom {
    /// The contents of a file, which somebody else keeps fresh.
    File(PathBuf),
    /// What a command prints: the program, then its arguments.
    Command(Vec<String>),
}

impl KafkaAuth {
    /// The mechanism that these options come to.
    pub(crate) fn mechanism(&self) -> Mechanism {
        let default = if self.token.is_some() { Mechanism::Oauthbearer } else { Mechanism::Plain };
        self.mechanism.unwrap_or(default)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        match (self.mechanism(), &self.token) {
            (Mechanism::Oauthbearer, None) => Err(wrong(
                "token",
                "`oauthbearer` needs a token",
                "give `token: { file: PATH }` or `token: { command: [PROGRAM] }`",
            )),
            (Mechanism::Oauthbearer, Some(TokenFrom::Command(words))) if words.is_empty() => {
                Err(wrong("token", "the command is empty", "name a program that prints the token"))
            }
            (Mechanism::Oauthbearer, Some(_)) if self.password.is_some() => {
                Err(wrong("password", "a bearer token needs no password", "leave it out"))
            }
            (Mechanism::Oauthbearer, Some(_)) => Ok(()),
            (_, Some(_)) => Err(wrong("token", "only `oauthbearer` has a token", "leave it or `mechanism` out")),
            _ if self.user.is_none() => Err(wrong("user", "there is no user name", "give `user` and `password`")),
            _ if self.password.is_none() => {
                Err(wrong("password", "there is no password", "give `user` and `password`"))
            }
            _ => Ok(()),
        }
    }
}

impl KafkaTls {
    pub(crate) fn validate(&self) -> Result<()> {
        match (&self.cert, &self.key) {
            (Some(_), None) => Err(wrong("key", "the certificate has no key", "give `cert` and `key`")),
            (None, Some(_)) => Err(wrong("cert", "the key has no certificate", "give `cert` and `key`")),
            (None, None) if self.key_password.is_some() => {
                Err(wrong("key_password", "there is no key that the password is for", "leave it out"))
            }
            _ => Ok(()),
        }
    }
}
