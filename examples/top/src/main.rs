//! A terminal view of a running runtime: `keylane-top ADDRESS`, or `keylane-top --demo` for one with its own load.

mod app;
mod demo;
mod keys;
mod link;
mod rates;
mod screen;

use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use crossterm::event::{Event, KeyEventKind, poll, read};
use keylane_top::protocol::ADDRESS;

use crate::app::App;
use crate::demo::Demo;
use crate::link::Link;

const USAGE: &str = "usage: keylane-top [ADDRESS] [--every MILLISECONDS]
       keylane-top --demo              a runtime of its own, with a load
       keylane-top --service [ADDRESS] the same without a view, until its input ends

Shows the runtime of a service that serves one, at 127.0.0.1:7797 unless told otherwise. Keys: arrows choose a key,
p parks, s skips, r resumes it, space pauses, q quits.";

/// How often the screen is looked after without any key.
const TICK: Duration = Duration::from_millis(50);

struct Options {
    address: String,
    every: Duration,
    demo: bool,
    service: bool,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keylane-top: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let every = Duration::from_millis(500);
    let mut options = Options { address: ADDRESS.into(), every, demo: false, service: false };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--demo" => options.demo = true,
            "--service" => options.service = true,
            "--every" => {
                let millis = arguments.next().and_then(|text| text.parse().ok());
                let millis = millis.filter(|millis| (50..=60_000).contains(millis));
                let millis = millis.ok_or("--every takes milliseconds from 50 to 60000")?;
                options.every = Duration::from_millis(millis);
            }
            other if other.starts_with('-') => return Err(format!("unknown option {other}")),
            address => options.address = address.into(),
        }
    }
    Ok(Some(options))
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    if options.service {
        let demo = Demo::start(&options.address)?;
        println!("serving at {}", demo.address());
        io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink())?;
        return Ok(());
    }
    let demo = if options.demo { Some(Demo::start("127.0.0.1:0")?) } else { None };
    let address = match &demo {
        Some(demo) => demo.address(),
        None => resolve(&options.address)?,
    };
    let link = Link::new(address, options.every)?;
    let mut app = App::new(address.to_string());
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &mut app, &link);
    ratatui::try_restore()?;
    Ok(shown?)
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut found = address
        .to_socket_addrs()
        .map_err(|error| format!("{address} is no address such as {ADDRESS}: {error}"))?;
    let first = found.next().ok_or_else(|| format!("{address} is no address"))?;
    if first.ip().is_loopback() {
        return Ok(first);
    }
    Err(format!("{first} is not on loopback: nothing is encrypted; use a tunnel"))
}

fn show(terminal: &mut ratatui::DefaultTerminal, app: &mut App, link: &Link) -> io::Result<()> {
    while !app.quits {
        while let Some(news) = link.news() {
            app.take(news);
        }
        while let Some(said) = link.message() {
            app.message = Some(match said {
                Ok(done) => (done, false),
                Err(error) => (error, true),
            });
        }
        app.trouble = link.trouble();
        terminal.draw(|frame| screen::draw(frame, app))?;
        if !poll(TICK)? {
            continue;
        }
        // A size that has changed is drawn in the next round.
        if let Event::Key(key) = read()?
            && key.kind == KeyEventKind::Press
            && let Some(request) = app.press(key)
            && !link.request(request)
        {
            app.message = Some(("not done: too much waits for the service".into(), true));
        }
    }
    Ok(())
}
