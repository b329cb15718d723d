//! The program itself, in a real pseudo-terminal whose screen is read as a person would.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZero;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{CommandBuilder, PtyPair, PtySize, native_pty_system};

/// A wait that comes to this has hung: a debug build on a busy machine takes a while.
const HANG: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_keylane-top");

/// The program in a terminal.
struct Terminal {
    pty: PtyPair,
    child: Box<dyn portable_pty::Child + Send + Sync>,
    writer: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// The terminal's modes before.
    before: String,
}

impl Terminal {
    fn start(width: u16, height: u16, arguments: &[&str]) -> Self {
        let size = PtySize { rows: height, cols: width, pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).unwrap();
        let before = format!("{:?}", pty.master.get_termios());
        let mut command = CommandBuilder::new(PROGRAM);
        command.args(arguments);
        command.env("TERM", "xterm-256color");
        let child = pty.slave.spawn_command(command).unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows(height), rows(width), 0)));
        let mut reader = pty.master.try_clone_reader().unwrap();
        let own = screen.clone();
        std::thread::spawn(move || {
            let mut part = [0; 4_096];
            while let Ok(count @ 1..) = reader.read(&mut part) {
                own.lock().unwrap().process(&part[..count]);
            }
        });
        let writer = pty.master.take_writer().unwrap();
        Self { pty, child, writer, screen, before }
    }

    /// The terminal's modes: echo and the like.
    fn modes(&self) -> String {
        format!("{:?}", self.pty.master.get_termios())
    }

    fn demo(width: u16, height: u16) -> Self {
        Self::start(width, height, &["--demo", "--every", "100"])
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn resize(&self, width: u16, height: u16) {
        let size = PtySize { rows: height, cols: width, pixel_width: 0, pixel_height: 0 };
        self.pty.master.resize(size).unwrap();
    }

    fn press(&mut self, keys: &str) {
        self.writer.write_all(keys.as_bytes()).unwrap();
        self.writer.flush().unwrap();
    }

    /// Waits until the screen is as it should be, and returns what `found` found on it.
    #[track_caller]
    fn until<T>(&self, what: &str, mut found: impl FnMut(&str) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if let Some(found) = found(&text) {
                return found;
            }
            assert!(begun.elapsed() < HANG, "waited in vain until {what}:\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn until_shown(&self, text: &str) {
        self.until(text, |screen| screen.contains(text).then_some(()));
    }

    /// Whether its main thread is blocked in a call about its standard output.
    #[cfg(target_os = "linux")]
    fn waits_to_draw(&self) -> bool {
        let process = self.child.process_id().unwrap();
        let call = std::fs::read_to_string(format!("/proc/{process}/syscall"))
            .expect("the calls of a child may be seen");
        call.split(' ').nth(1) == Some("0x1")
    }

    /// The line of the key that is chosen.
    fn chosen(screen: &str) -> Option<&str> {
        screen.lines().find(|line| line.starts_with('▶'))
    }

    /// Moves to the line of this key.
    #[track_caller]
    fn choose(&mut self, key: &str) {
        self.until(key, |screen| screen.contains(key).then_some(()));
        let begun = Instant::now();
        // A first step, since it is no key but the first line that is chosen until then.
        let mut step = "j";
        loop {
            self.step(step);
            let screen = self.text();
            let place = |start: &dyn Fn(&str) -> bool| screen.lines().position(start);
            let chosen = place(&|line| line.starts_with('▶'));
            let wanted = place(&|line| line.trim_start_matches(['▶', ' ']).starts_with(key));
            match (chosen, wanted) {
                (Some(chosen), Some(wanted)) if chosen < wanted => step = "j",
                (Some(chosen), Some(wanted)) if chosen > wanted => step = "k",
                (Some(_), Some(_)) => return,
                _ => {}
            }
            assert!(begun.elapsed() < HANG, "{key} was never chosen:\n{screen}");
        }
    }

    /// Presses this key and waits until another line is chosen: one more could be one too many. There may be none,
    /// as lines move.
    fn step(&mut self, key: &str) {
        let key_chosen = |screen: &str| {
            Self::chosen(screen).and_then(|line| line.split_whitespace().nth(1).map(str::to_owned))
        };
        let before = key_chosen(&self.text());
        self.press(key);
        let begun = Instant::now();
        while key_chosen(&self.text()) == before && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Quits, and checks that the terminal is as it was.
    #[track_caller]
    fn quit(mut self) {
        self.press("q");
        self.ends();
    }

    /// Checks that it ends, as it has been told to, and that the terminal is as it was.
    #[track_caller]
    fn ends(mut self) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < HANG, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.exit_code(), 0, "{}", self.text());
        // What it wrote last may still be on its way.
        self.until("the terminal is restored", |_| {
            let parser = self.screen.lock().unwrap();
            let screen = parser.screen();
            (!screen.alternate_screen() && !screen.hide_cursor()).then_some(())
        });
        assert!(!self.text().contains("panicked"), "{}", self.text());
        assert_eq!(self.modes(), self.before);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_key_is_parked_resumed_and_skipped_in_the_demo() {
    let mut terminal = Terminal::demo(140, 44);
    terminal.until_shown("256 lanes");
    terminal.until("lanes are at work", |screen| screen.matches('░').nth(8).map(|_| ()));
    terminal.until("rates and percentiles are there", |screen| {
        let rate = screen.lines().find(|line| line.contains("/s handled"))?;
        let percentiles = screen.lines().find(|line| line.starts_with("p50 "))?;
        (!rate.starts_with("0/s") && !percentiles.contains('-')).then_some(())
    });
    terminal.until_shown("its future is pending");
    terminal.until_shown("the ledger is down");
    for shown in [" workers: ", "subscriptions", "orders", "shipping", "bounds used up", "order-0"]
    {
        terminal.until_shown(shown);
    }

    // One of the busiest keys: nothing is the matter with it until it is parked.
    terminal.choose("order-0 ");
    terminal.press("p");
    terminal.until_shown("Park order-0 of orders?");
    terminal.press("n");
    terminal.until_shown("left as it is");
    terminal.press("p");
    terminal.until_shown("Park order-0 of orders?");
    terminal.press("y");
    terminal.until_shown("order-0 of orders is parked");
    terminal.until("its records follow it", |screen| {
        let line = Terminal::chosen(screen)?;
        (line.contains("order-0 ")
            && line.contains("followed: parked by hand")
            && !line.contains(" 0 followed"))
        .then_some(())
    });
    terminal.press("r");
    terminal.until_shown("Resume order-0 of orders?");
    terminal.press("y");
    terminal.until_shown("order-0 of orders is resumed");
    terminal.until("it is parked no more", |screen| {
        let mut lines = screen.lines().map(|line| line.trim_start_matches(['▶', ' ']));
        let line = lines.find(|line| line.starts_with("order-0 "));
        line.is_none_or(|line| !line.contains("parked")).then_some(())
    });

    terminal.choose("ledger-down ");
    terminal.press("s");
    terminal.until_shown("Skip what ledger-down of audit waits for?");
    terminal.press("y");
    terminal.until_shown("ledger-down of audit passes over");
    terminal.until_shown("skipped 1");
    terminal.press("r");
    terminal.until_shown("it is not parked");
    terminal.quit();
}

#[test]
fn small_and_changing_terminals_are_drawn() {
    let mut terminal = Terminal::demo(80, 24);
    terminal.until_shown("q quit");
    terminal.until_shown("256 lanes");
    // Once it has been for a while, there is no room for all of "pending".
    terminal.until_shown("its future is");
    for (width, height) in [(40, 12), (10, 4), (1, 1), (200, 60), (40, 12)] {
        {
            // Nothing is left of what was drawn before.
            let mut parser = terminal.screen.lock().unwrap();
            parser.process(b"\x1b[2J");
            parser.screen_mut().set_size(rows(height), rows(width));
        }
        terminal.resize(width, height);
        terminal.press("j");
        if width >= 40 {
            terminal.until("it is drawn again", |screen| {
                (screen.contains("256 lanes") && Terminal::chosen(screen).is_some()).then_some(())
            });
        }
    }
    terminal.until_shown("keys that wait");
    terminal.quit();

    let mut small = Terminal::demo(40, 12);
    small.until_shown("256 lanes");
    small.until("there are keys", |screen| Terminal::chosen(screen).map(|_| ()));
    small.press("\u{1b}[B\u{1b}[Bp");
    small.until("it asks", |screen| screen.contains("Park ").then_some(()));
    small.press("n");
    small.quit();
}

/// The view comes to look for events and finds two, first the new size and then the key.
#[cfg(target_os = "linux")]
#[test]
fn a_key_that_comes_right_after_a_new_size_counts() {
    let service = Service::start("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        let mut terminal = Terminal::start(80, 24, &[&service.1]);
        terminal.until_shown("256 lanes");
        let screen = terminal.screen.clone();
        let unread = screen.lock().unwrap();
        // What it draws is not read: sooner or later it waits in the middle of it.
        let begun = Instant::now();
        for width in [200, 199].into_iter().cycle() {
            assert!(begun.elapsed() < HANG, "it never waits for the terminal");
            if terminal.waits_to_draw() {
                break;
            }
            terminal.resize(width, 60);
            std::thread::sleep(Duration::from_millis(10));
        }
        terminal.resize(60, 20);
        // The signal wakes it; once it waits again it knows of the new size.
        while !terminal.waits_to_draw() {
            assert!(begun.elapsed() < HANG, "it does not wait again");
            std::thread::sleep(Duration::from_millis(10));
        }
        terminal.press("q");
        drop(unread);
        terminal.ends();
    }
}

fn rows(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap()
}

/// A service in a process of its own.
struct Service(Child, String);

impl Service {
    fn start(address: &str) -> Option<Self> {
        let mut child = Command::new(PROGRAM)
            .args(["--service", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("serving at ").map(str::to_owned) else {
            child.wait().unwrap();
            return None;
        };
        Some(Self(child, address))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_service_that_is_killed_is_missed_and_found_again() {
    let service = Service::start("127.0.0.1:0").unwrap();
    let address = service.1.clone();
    let mut terminal = Terminal::start(120, 40, &[&address, "--every", "100"]);
    terminal.until_shown("256 lanes");
    // Once it has been for a while, there is no room for all of "pending".
    terminal.until_shown("its future is");
    drop(service);
    terminal.until_shown("no connection, trying again");
    assert!(terminal.text().contains("256 lanes"), "what was known stays");
    terminal.press("gp");
    terminal.until_shown("y/n");
    terminal.press("y");
    let again = Service::start(&address).expect("the port is free again");
    terminal.until("it is there again", |screen| {
        (!screen.contains("no connection, trying")).then_some(())
    });
    terminal.until_shown("not done: there is no connection");
    terminal.until_shown("/s handled");
    drop(again);
    terminal.until_shown("no connection, trying again");
    terminal.quit();
}

#[test]
fn nobody_there_is_said_and_bad_arguments_are_refused() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let terminal = Terminal::start(80, 24, &[&address]);
    terminal.until_shown("no connection, trying again");
    terminal.until_shown("waiting for");
    terminal.quit();
    for bad in [&["--what"][..], &["--every", "1"], &["not an address"], &["192.0.2.1:7797"]] {
        let out = Command::new(PROGRAM).args(bad).stdin(Stdio::null()).output().unwrap();
        assert!(!out.status.success(), "{bad:?}");
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(!text.is_empty() && !text.contains("panicked"), "{bad:?}: {text}");
    }
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    assert!(help.status.success() && help.stdout.starts_with(b"usage"));
}
