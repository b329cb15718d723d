//! Who we are to a server.

use std::path::{Path, PathBuf};

use nkeys::KeyPair;

use super::secret::Secret;
use super::url::Login;
use crate::error::ConfigError;

/// What stands for a secret in an error.
const HIDDEN: &str = "(hidden)";

/// Everything that was given to say who we are; at most one way of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Credentials {
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) token: Option<Secret>,
    pub(super) nkey_seed: Option<Secret>,
    pub(super) creds: Option<Secret>,
    pub(super) creds_file: Option<PathBuf>,
}

/// The one way that was given.
#[derive(Clone, Debug)]
pub(super) enum Auth {
    None,
    User(String, Secret),
    Token(Secret),
    Seed(Secret),
    Creds(Secret),
    /// Read anew at every connect, so that renewed credentials count.
    CredsFile(PathBuf),
}

impl Credentials {
    /// Sets what an option of this name says; whether there is one.
    pub(super) fn set(&mut self, name: &str, value: &str) -> bool {
        let secret = || Some(Secret::new(value));
        match name {
            "user" => self.user = Some(value.to_owned()),
            "password" => self.password = secret(),
            "token" => self.token = secret(),
            "nkey_seed" => self.nkey_seed = secret(),
            "creds" => self.creds = secret(),
            "creds_file" => self.creds_file = Some(value.into()),
            _ => return false,
        }
        true
    }

    pub(super) fn login(&mut self, login: Login) {
        match login {
            Login::User(user, password) => {
                (self.user, self.password) = (Some(user), Some(password));
            }
            Login::Token(token) => self.token = Some(token),
        }
    }

    /// The one way that was given.
    pub(super) fn auth(&self) -> Result<Auth, ConfigError> {
        let refuse = |option, allowed| ConfigError::out_of_range(option, "given", allowed);
        let user = match (&self.user, &self.password) {
            (Some(user), Some(password)) => Some(Auth::User(user.clone(), password.clone())),
            (Some(_), None) => return Err(refuse("user", "given together with `password`")),
            (None, Some(_)) => return Err(refuse("password", "given together with `user`")),
            (None, None) => None,
        };
        let mut ways = [
            ("user", user),
            ("token", self.token.clone().map(Auth::Token)),
            ("nkey_seed", self.nkey_seed.clone().map(Auth::Seed)),
            ("creds", self.creds.clone().map(Auth::Creds)),
            ("creds_file", self.creds_file.clone().map(Auth::CredsFile)),
        ]
        .into_iter()
        .filter_map(|(name, way)| way.map(|way| (name, way)));
        let Some((_, auth)) = ways.next() else { return Ok(Auth::None) };
        match ways.next() {
            None => Ok(auth),
            Some((second, _)) => Err(refuse(
                second,
                "the only one of `user`, `token`, `nkey_seed`, `creds` and `creds_file`",
            )),
        }
    }
}

impl Auth {
    /// What is told to a server that sent `nonce`.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<async_nats::Auth, ConfigError> {
        let mut told = async_nats::Auth::new();
        match self {
            Self::None => {}
            Self::User(user, password) => {
                told.username = Some(user.clone());
                told.password = Some(password.expose().to_owned());
            }
            Self::Token(token) => told.token = Some(token.expose().to_owned()),
            Self::Seed(seed) => {
                let pair = pair(seed.expose()).ok_or_else(|| {
                    ConfigError::invalid("nkey_seed", HIDDEN, "a user's seed, SU... in base 32,")
                })?;
                told.nkey = Some(pair.public_key());
                told.signature = pair.sign(nonce).ok();
            }
            Self::Creds(creds) => sign(&mut told, creds, nonce).ok_or_else(|| {
                ConfigError::invalid("creds", HIDDEN, "text with a user's JWT and seed")
            })?,
            Self::CredsFile(path) => {
                let refuse = |why: &str| ConfigError::invalid("creds_file", why, CREDS_FILE);
                let creds = read(path).map_err(|error| refuse(&error.to_string()))?;
                sign(&mut told, &creds, nonce).ok_or_else(|| refuse("without one of them"))?;
            }
        }
        Ok(told)
    }

    /// What it consists of, for an error's text.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::None => {
                "a client without credentials: give `user` and `password`, `token`, \
                           `nkey_seed`, `creds` or `creds_file`"
            }
            Self::User(..) => "this `user` and `password`",
            Self::Token(_) => "this `token`",
            Self::Seed(_) => "this `nkey_seed`",
            Self::Creds(_) => "these `creds`",
            Self::CredsFile(_) => "what is in `creds_file`",
        }
    }
}

const CREDS_FILE: &str = "a readable file with a user's JWT and seed";

fn read(path: &Path) -> std::io::Result<Secret> {
    std::fs::read_to_string(path).map(Secret::new)
}

fn pair(seed: &str) -> Option<KeyPair> {
    KeyPair::from_seed(seed.trim()).ok()
}

fn sign(told: &mut async_nats::Auth, creds: &Secret, nonce: &[u8]) -> Option<()> {
    let creds = creds.expose();
    let jwt = block(creds, "USER JWT")?;
    let pair = pair(block(creds, "USER NKEY SEED")?)?;
    told.signature = Some(pair.sign(nonce).ok()?);
    told.jwt = Some(jwt.to_owned());
    Some(())
}

/// The line after the one that begins the block of this title.
fn block<'a>(creds: &'a str, title: &str) -> Option<&'a str> {
    let mut lines = creds.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.find(|line| line.starts_with("---") && line.contains("BEGIN") && line.contains(title))?;
    lines.next().filter(|line| !line.starts_with("---"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> String {
        KeyPair::new_user().seed().unwrap_or_default()
    }

    fn creds(seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n\
             *** keep it\n\n-----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn one_way_is_taken_and_two_are_refused() {
        let given = |names: &[&str]| {
            let mut credentials = Credentials::default();
            for name in names {
                assert!(credentials.set(name, "canary"), "{name}");
            }
            credentials.auth().map_err(|error| error.to_string())
        };
        assert!(matches!(given(&[]), Ok(Auth::None)));
        assert!(matches!(given(&["user", "password"]), Ok(Auth::User(..))));
        assert!(matches!(given(&["creds_file"]), Ok(Auth::CredsFile(_))));
        for (names, told) in [
            (&["user"][..], "`password`"),
            (&["password"], "`user`"),
            (&["token", "creds"], "`creds` is given"),
            (&["user", "password", "nkey_seed"], "`nkey_seed` is given"),
        ] {
            let error = given(names).map(|auth| panic!("{names:?}: {auth:?}"));
            let Err(error) = error;
            assert!(error.contains(told) && !error.contains("canary"), "{names:?}: {error}");
        }
        assert!(!Credentials::default().set("nkey", "x"));
    }

    #[test]
    fn creds_are_read_and_sign() {
        let seed = seed();
        let auth = Auth::Creds(Secret::new(creds(&seed)));
        let told = auth.answer(b"nonce").unwrap();
        assert_eq!(told.jwt.as_deref(), Some("eyJ0.eyJq.c2ln"));
        let signature = told.signature.unwrap();
        assert!(KeyPair::from_seed(&seed).unwrap().verify(b"nonce", &signature).is_ok());

        let told = Auth::Seed(Secret::new(format!("{seed}\n"))).answer(b"nonce").unwrap();
        assert!(told.nkey.is_some_and(|key| key.starts_with('U')) && told.signature.is_some());
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_repeated() {
        for auth in [
            Auth::Seed(Secret::new("SUcanary")),
            Auth::Creds(Secret::new("canary")),
            Auth::Creds(Secret::new(creds("SUcanary"))),
            Auth::Creds(Secret::new("-----BEGIN NATS USER JWT-----\n------END canary------")),
            Auth::CredsFile("/nowhere/at/all".into()),
        ] {
            let error = auth.answer(b"nonce").map(|_| panic!("{auth:?}"));
            let Err(error) = error;
            assert!(!format!("{error} {error:?} {auth:?}").contains("canary"), "{error}");
        }
    }
}
