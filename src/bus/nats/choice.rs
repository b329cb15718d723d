//! Options that are one of a few words, a path or a subject.

use std::path::PathBuf;

use crate::option::Kind;

/// An enum whose variants have names, which options are set by.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[$each])* $variant,)+ }

        impl $name {
            pub(super) const ALL: &[(&str, Self)] = &[$(($word, Self::$variant),)+];

            /// The word that stands for it in text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

words! {
    /// What is done about the stream of a topic that is published or subscribed to.
    ///
    /// Nothing is ever shrunk, and no message deleted: where that would be needed, it is refused with what to do.
    Strategy {
        /// Made if it is missing. One that is there must be as the options say.
        CreateOnly = "create_only",
        /// Made if it is missing; subjects are added to it, limits and replicas raised.
        CreateOrUpdate = "create_or_update",
        /// It must be there, and as the options say.
        ValidateOnly = "validate_only",
        /// It must be there.
        Skip = "skip",
    }
}

words! {
    /// How the server learns what is handled, and what is delivered again after a crash.
    AckMode {
        /// Each delivery is acknowledged when it is handled.
        Each = "each",
        /// One acknowledgement covers everything up to the first delivery that is not handled yet: fewer of them, and
        /// more deliveries again after a crash. Not on work-queue streams.
        Floor = "floor",
        /// No acknowledgements: we store what is handled ourselves, in a key-value bucket. Only on streams whose
        /// retention is `limits`.
        Checkpoint = "checkpoint",
    }
}

words! {
    /// Where a stream is stored.
    Storage {
        /// In files.
        File = "file",
        /// In memory: a restart of its server loses it.
        Memory = "memory",
    }
}

words! {
    /// What a stream keeps.
    Retention {
        /// Everything, up to its limits.
        Limits = "limits",
        /// What a consumer that exists has not acknowledged.
        Interest = "interest",
        /// What nobody has acknowledged; each message is for one consumer.
        WorkQueue = "work_queue",
    }
}

words! {
    /// What a full stream gives up.
    Discard {
        /// Its oldest messages, handled or not.
        Old = "old",
        /// The message that is published, which its publisher is told.
        New = "new",
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind for Choice<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Option<T> {
        self.0.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    }

    fn write(&self, value: &T) -> String {
        self.0.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word).to_owned()
    }

    fn fits(&self, _value: &T) -> bool {
        true
    }
}

/// The path of a file.
pub(super) struct File;

impl Kind for File {
    type Value = PathBuf;

    fn parse(&self, text: &str) -> Option<PathBuf> {
        Some(text.into())
    }

    fn write(&self, value: &PathBuf) -> String {
        value.to_string_lossy().into_owned()
    }

    fn fits(&self, value: &PathBuf) -> bool {
        !value.as_os_str().is_empty()
    }
}

/// A subject without wildcards, at most 128 bytes.
pub(super) struct Subject;

impl Kind for Subject {
    type Value = String;

    fn parse(&self, text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn write(&self, value: &String) -> String {
        value.clone()
    }

    fn fits(&self, value: &String) -> bool {
        let token = |token: &str| {
            !token.is_empty()
                && token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>')
        };
        value.len() <= 128 && value.split('.').all(token)
    }
}
