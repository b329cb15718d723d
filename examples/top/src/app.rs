//! What the view knows and what keys do: no terminal and no connection in it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use keylane_top::protocol::{Request, Target};
use keylane_top::view::{Answer, View};

use crate::keys::{Identity, Row, rows};
use crate::rates::Rates;

/// Rows that a page key moves.
const PAGE: usize = 10;

/// The view.
#[derive(Default)]
pub struct App {
    pub address: String,
    pub view: Option<View>,
    pub operable: Vec<String>,
    pub rates: Rates,
    pub rows: Vec<Row>,
    /// The row that was chosen, by what it is, so that it stays chosen when rows move. `None`: the first, whatever
    /// it is.
    chosen: Option<Identity>,
    place: usize,
    /// What is to be confirmed.
    pub confirm: Option<(Deed, Target)>,
    /// What was said last, and whether it is bad news.
    pub message: Option<(String, bool)>,
    /// Why there is no connection.
    pub trouble: Option<String>,
    pub paused: bool,
    pub quits: bool,
}

/// What may be done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Park,
    Skip,
    Resume,
}

impl Deed {
    /// The question before it is done.
    pub fn question(self, target: &Target) -> String {
        let key = target.key.escape_ascii();
        let of = &target.subscription;
        match self {
            Self::Park => format!(
                "Park {key} of {of}? Its records go to the dead letters until it is resumed."
            ),
            Self::Skip => format!("Skip what {key} of {of} waits for? The record is not handled."),
            Self::Resume => format!("Resume {key} of {of}? Its next record is handled again."),
        }
    }

    fn request(self, target: Target) -> Request {
        match self {
            Self::Park => Request::Park(target),
            Self::Skip => Request::Skip(target),
            Self::Resume => Request::Resume(target),
        }
    }
}

impl App {
    /// Of a service at `address`.
    pub fn new(address: String) -> Self {
        Self { address, ..Self::default() }
    }

    /// A new snapshot has come.
    pub fn take(&mut self, answer: Answer) {
        let Some(view) = answer.snapshot else { return };
        self.rates.add(answer.at_nanos, &view);
        if self.paused {
            return;
        }
        self.operable = answer.operable;
        self.rows = rows(&view);
        self.view = Some(*view);
        let Some(chosen) = &self.chosen else { return };
        match self.rows.iter().position(|row| row.id == *chosen) {
            Some(place) => self.place = place,
            None => self.choose(self.place),
        }
    }

    /// The place of the row that is chosen.
    pub fn place(&self) -> usize {
        self.place
    }

    fn choose(&mut self, place: usize) {
        self.place = place.min(self.rows.len().saturating_sub(1));
        self.chosen = self.rows.get(self.place).map(|row| row.id.clone());
    }

    /// A key was pressed: what is to be asked of the service, if anything.
    pub fn press(&mut self, key: KeyEvent) -> Option<Request> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.quits |= key.code == KeyCode::Char('c');
            return None;
        }
        if let Some((deed, target)) = self.confirm.take() {
            if matches!(key.code, KeyCode::Char('y' | 'Y')) {
                return Some(deed.request(target));
            }
            self.message = Some(("left as it is".into(), false));
            return None;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => self.quits = true,
            KeyCode::Up | KeyCode::Char('k') => self.choose(self.place.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.choose(self.place + 1),
            KeyCode::PageUp => self.choose(self.place.saturating_sub(PAGE)),
            KeyCode::PageDown => self.choose(self.place + PAGE),
            KeyCode::Home | KeyCode::Char('g') => (self.place, self.chosen) = (0, None),
            KeyCode::End | KeyCode::Char('G') => self.choose(usize::MAX),
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('p') => self.ask(Deed::Park),
            KeyCode::Char('s') => self.ask(Deed::Skip),
            KeyCode::Char('r') => self.ask(Deed::Resume),
            _ => {}
        }
        None
    }

    fn ask(&mut self, deed: Deed) {
        let Some(row) = self.rows.get(self.place) else {
            self.message = Some(("there is no key to choose".into(), true));
            return;
        };
        let refused = match &row.id {
            (_, None) => Some("records without a key have none to act on".into()),
            _ if row.is_cut() => Some(
                "the key may be longer than what a snapshot shows of it, so it cannot be named"
                    .into(),
            ),
            (subscription, _) if !self.operable.contains(subscription) => {
                Some(format!("the service lets nobody touch {subscription}"))
            }
            _ if deed == Deed::Resume && row.parked.is_none() => Some("it is not parked".into()),
            _ => None,
        };
        match (refused, &row.id) {
            (None, (subscription, Some(key))) => {
                let target = Target { subscription: subscription.clone(), key: key.clone() };
                (self.confirm, self.message) = (Some((deed, target)), None);
            }
            (refused, _) => self.message = refused.map(|why| (why, true)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn answer(keys: &[(&str, usize)]) -> Answer {
        let busy: Vec<_> = keys
            .iter()
            .map(|(key, waiting)| {
                serde_json::json!({"subscription": "s", "key": key.as_bytes(), "why": "Future", "waiting": waiting})
            })
            .collect();
        let text = serde_json::json!({
            "protocol": 1, "at_nanos": 1, "operable": ["s"], "snapshot": {"busy": busy}
        });
        serde_json::from_value(text).unwrap()
    }

    fn press(app: &mut App, code: char) -> Option<Request> {
        app.press(KeyEvent::from(KeyCode::Char(code)))
    }

    #[test]
    fn a_chosen_key_stays_chosen_and_is_acted_on_once_confirmed() {
        let mut app = App::new("there".into());
        app.take(answer(&[("a", 9), ("b", 5), ("c", 1)]));
        press(&mut app, 'j');
        app.take(answer(&[("a", 9), ("b", 1), ("c", 5)]));
        assert_eq!(app.place(), 2, "b has moved");
        assert_eq!(press(&mut app, 'p'), None);
        assert!(app.confirm.is_some());
        assert_eq!(press(&mut app, 'n'), None);
        assert!(app.confirm.is_none());
        press(&mut app, 's');
        // While it asks, rows may move: it is still b that is meant.
        app.take(answer(&[("b", 10), ("a", 9)]));
        let target = Target { subscription: "s".into(), key: b"b".to_vec() };
        assert_eq!(press(&mut app, 'y'), Some(Request::Skip(target)));
        press(&mut app, 'r');
        assert!(app.confirm.is_none() && app.message.as_ref().unwrap().1, "it is not parked");
        app.take(answer(&[]));
        press(&mut app, 'p');
        assert!(app.confirm.is_none());
        press(&mut app, 'q');
        assert!(app.quits);
    }

    #[test]
    fn keys_that_are_cut_or_not_named_by_the_service_are_left_alone() {
        let mut app = App::new("there".into());
        app.take(answer(&[(&"x".repeat(64), 1)]));
        press(&mut app, 'p');
        assert!(app.confirm.is_none());
        let mut foreign = answer(&[("a", 1)]);
        foreign.operable.clear();
        app.take(foreign);
        press(&mut app, 'p');
        assert!(app.confirm.is_none() && app.message.as_ref().unwrap().0.contains("nobody"));
    }
}
