//! The topics of a subscription: one, or several that feed one handler.

use std::fmt;

use crate::sync::Arc;

/// Topics of one subscription.
const MOST: usize = 1_024;

/// The topics of a subscription: one, or several that feed one handler. Whatever is text is one; an array, a `Vec` or
/// an iterator of texts is several.
///
/// Each topic keeps its own position in the group, so that another set of topics later loses and skips nothing: a topic
/// that is new begins where the subscription starts, and one that comes back goes on where it was.
///
/// ```
/// use keylane::Topics;
///
/// assert_eq!(Topics::from("orders").names().collect::<Vec<_>>(), ["orders"]);
/// let both = Topics::from(["orders", "payments"]);
/// assert_eq!(both.names().collect::<Vec<_>>(), ["orders", "payments"]);
/// assert!(both.check().is_ok());
/// assert!(Topics::from(["orders", "orders"]).check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics(Arc<[Arc<str>]>);

impl Topics {
    /// Their names, in the order in which they were given.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// Checks that there are 1 to 1,024, each of them once. What a topic's name may be is the bus' to say.
    ///
    /// # Errors
    /// If it is not so.
    pub fn check(&self) -> Result<(), InvalidTopics> {
        if !(1..=MOST).contains(&self.0.len()) {
            return Err(InvalidTopics::Number(self.0.len()));
        }
        let mut sorted: Vec<_> = self.names().collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(InvalidTopics::Overlap(twice[0].into(), twice[1].into())),
            None => Ok(()),
        }
    }

    /// The name of the one at this place.
    pub(crate) fn name(&self, place: usize) -> &str {
        self.0.get(place).map_or("", |name| name)
    }
}

impl<T: AsRef<str> + ?Sized> From<&T> for Topics {
    fn from(name: &T) -> Self {
        Self([name.as_ref().into()].into())
    }
}

impl From<String> for Topics {
    fn from(name: String) -> Self {
        Self([name.into()].into())
    }
}

impl<T: AsRef<str>, const N: usize> From<[T; N]> for Topics {
    fn from(names: [T; N]) -> Self {
        names.into_iter().collect()
    }
}

impl<T: AsRef<str>> From<Vec<T>> for Topics {
    fn from(names: Vec<T>) -> Self {
        names.into_iter().collect()
    }
}

impl<T: AsRef<str>> FromIterator<T> for Topics {
    fn from_iter<I: IntoIterator<Item = T>>(names: I) -> Self {
        Self(names.into_iter().map(|name| name.as_ref().into()).collect())
    }
}

/// Why topics cannot be those of one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidTopics {
    /// So many there cannot be: 1 to 1,024.
    Number(usize),
    /// One is named twice, or is among those that another, with wildcards, stands for too: its records would come
    /// twice, and not in order.
    Overlap(String, String),
}

impl fmt::Display for InvalidTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(given) => {
                write!(f, "a subscription has 1 to {MOST} topics, and {given} are given")
            }
            Self::Overlap(one, other) if one == other => {
                write!(
                    f,
                    "the topic {one:?} is given twice: a subscription has each of its topics once"
                )
            }
            Self::Overlap(one, other) => write!(
                f,
                "the topics {one:?} and {other:?} have records in common, which would come twice: leave one of them out"
            ),
        }
    }
}

impl std::error::Error for InvalidTopics {}
