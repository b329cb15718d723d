//! What nobody may read in a log: passwords, tokens, seeds.

use std::fmt;

use zeroize::Zeroizing;

use crate::sync::Arc;

/// A secret. Nothing prints it; its memory is wiped when the last clone goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub(super) fn new(secret: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(secret.into())))
    }

    /// What it is: for the one who sends it to a server, and nobody else.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_printed() {
        let secret = Secret::new("hunter2");
        for text in [format!("{secret:?}"), format!("{secret:#?}"), format!("{:?}", Some(&secret))]
        {
            assert!(
                !text.contains("hunter2") && !text.contains('7'),
                "{text}: not even its length"
            );
        }
        assert_eq!(secret.expose(), "hunter2");
    }
}
