//! Errors that hold no record: what a handler returns, and what a configuration is refused with.
//! Errors that give a record back live beside the operation that gives it back.

use std::error::Error;
use std::fmt;

/// Why a push was refused; the value comes back.
#[derive(PartialEq, Eq, Clone, Copy)]
pub enum PushError<T> {
    /// No room now.
    Full(T),
    /// Closed for good.
    Closed(T),
}

impl<T> PushError<T> {
    /// The value that was not taken.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Closed(value) => value,
        }
    }

    /// Whether a later try may succeed.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full(..)"),
            Self::Closed(_) => f.write_str("Closed(..)"),
        }
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("full"),
            Self::Closed(_) => f.write_str("closed"),
        }
    }
}

impl<T> Error for PushError<T> {}

/// What a handler returns when it could not handle a record.
///
/// Any error converts by `?` and is retryable; [`HandlerError::fatal`] says that no further attempt
/// can succeed, so that the failure policy skips the retries.
///
/// ```
/// use keylane::HandlerError;
///
/// fn handle(payload: &[u8]) -> Result<u32, HandlerError> {
///     let text = std::str::from_utf8(payload).map_err(HandlerError::fatal)?;
///     Ok(text.parse()?)
/// }
/// assert!(handle(b"7").is_ok());
/// assert!(handle(b"x").unwrap_err().is_retryable());
/// assert!(!handle(b"\xff").unwrap_err().is_retryable());
/// ```
pub struct HandlerError(Box<Failed>);

/// Behind one thin pointer, so that `Ok` and `Err` are told apart in a register.
struct Failed {
    source: Box<dyn Error + Send + Sync>,
    retryable: bool,
}

impl HandlerError {
    /// A failure that a later attempt may get past.
    #[cold]
    pub fn retryable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Box::new(Failed { source: source.into(), retryable: true }))
    }

    /// A failure that no further attempt can get past.
    #[cold]
    pub fn fatal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Box::new(Failed { source: source.into(), retryable: false }))
    }

    /// Whether the failure policy may try again.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The error itself.
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0.source
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(source: E) -> Self {
        Self::retryable(source)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("source", &self.0.source)
            .field("retryable", &self.0.retryable)
            .finish()
    }
}

// `HandlerError` does not implement `Error`, so that the blanket `From` above can exist; `Display`
// shows the source.
impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source.fmt(f)
    }
}

/// An option was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The option's value is out of its range.
    OutOfRange {
        /// The option's name.
        option: &'static str,
        /// What was given.
        given: String,
        /// What is allowed, in words.
        allowed: &'static str,
    },
    /// The option's value could not be read.
    Invalid {
        /// The option's name.
        option: &'static str,
        /// What was given (never a secret).
        given: String,
        /// What was expected, in words.
        expected: &'static str,
    },
    /// No option has this name.
    Unknown {
        /// The name given.
        name: String,
        /// The nearest option's name, if one is near.
        nearest: Option<&'static str>,
    },
}

impl ConfigError {
    #[cold]
    pub(crate) fn out_of_range(option: &'static str, given: &str, allowed: &'static str) -> Self {
        Self::OutOfRange { option, given: shorten(given), allowed }
    }

    #[cold]
    pub(crate) fn invalid(option: &'static str, given: &str, expected: &'static str) -> Self {
        Self::Invalid { option, given: shorten(given), expected }
    }

    #[cold]
    pub(crate) fn unknown(name: &str, nearest: Option<&'static str>) -> Self {
        Self::Unknown { name: shorten(name), nearest }
    }
}

/// What was given may be of any length; its beginning tells which it was.
fn shorten(given: &str) -> String {
    const MAX: usize = 64;
    match given.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &given[..end]),
        None => given.to_owned(),
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { option, given, allowed } => {
                write!(f, "option `{option}` is {given}, but must be {allowed}")
            }
            Self::Invalid { option, given, expected } => {
                write!(f, "option `{option}` is {given:?}, but {expected} is expected")
            }
            Self::Unknown { name, nearest: Some(nearest) } => {
                write!(f, "no option is called {name:?}; did you mean `{nearest}`?")
            }
            Self::Unknown { name, nearest: None } => write!(f, "no option is called {name:?}"),
        }
    }
}

impl Error for ConfigError {}
