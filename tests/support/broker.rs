//! A real nats-server on loopback for one test, or for all of a test binary, with faults by command.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// One server or a cluster, started by `ci/nats.sh`. It ends with this, or with the test's process, however that ends.
///
/// The environment decides what is not asked for: `KL_NATS_VERSION` and `KL_NATS_NODES` as in `ci/nats.sh`; `KL_NATS` names
/// the directory of a running one for [`Server::shared`], or is `off`, and then tests that need one are not run.
pub struct Server {
    dir: PathBuf,
    url: String,
    keeper: Option<Child>,
}

impl Server {
    /// Starts one with these arguments of `ci/nats.sh start`.
    ///
    /// `None` if it cannot be had here, which is printed, and a failure with `CI=true`.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        if off() {
            return not_run("KL_NATS=off");
        }
        Self::serve(arguments).map_or_else(|why| failed(&why), Some)
    }

    /// The one that all tests of this binary share: none may fault it, and each uses names of its own.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        let start = || match std::env::var_os("KL_NATS").map(PathBuf::from) {
            Some(dir) if !off() => Self::running(dir).map_or_else(|why| failed(&why), Some),
            _ => Self::start(&[]),
        };
        SHARED.get_or_init(start).as_ref()
    }

    fn serve(arguments: &[&str]) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("keylane-nats-{}-{count}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let mut complaints = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("complaints"))
            .map_err(|e| e.to_string())?;
        let stderr = complaints.try_clone().map_err(|e| e.to_string())?;
        let mut keeper = script()?
            .arg("serve")
            .arg(&dir)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|e| format!("ci/nats.sh: {e}"))?;
        let mut url = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            // The end of it without a line: it gave up.
            BufReader::new(stdout).read_line(&mut url).map_err(|e| e.to_string())?;
        }
        let url = url.trim().to_owned();
        if url.is_empty() {
            let _ = keeper.wait();
            // The script has removed the directory; what it wrote is still ours to read.
            let mut said = String::new();
            let _ = complaints.rewind().and_then(|()| complaints.read_to_string(&mut said));
            return Err(said.trim().to_owned());
        }
        Ok(Self { dir, url, keeper: Some(keeper) })
    }

    fn running(dir: PathBuf) -> Result<Self, String> {
        let path = dir.join("url");
        let url = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { dir, url: url.trim().to_owned(), keeper: None })
    }

    /// The URLs of all nodes, comma separated.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where node `n`, from 1, listens.
    pub fn address(&self, n: usize) -> SocketAddr {
        let url = self.url.split(',').nth(n - 1).expect("there is such a node");
        url.trim_start_matches("nats://").parse().expect("ci/nats.sh prints addresses")
    }

    pub fn nodes(&self) -> usize {
        self.url.split(',').count()
    }

    /// Where it keeps what it is made of.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of `--security`: `ca.pem`, `client.key`, `password`, `user.creds`, …
    pub fn security(&self, file: &str) -> PathBuf {
        self.dir.join("security").join(file)
    }

    /// What a file of `--security` holds, for passwords, tokens and seeds.
    pub fn secret(&self, file: &str) -> String {
        fs::read_to_string(self.security(file)).expect("the server was started with --security")
    }

    /// SIGKILL, sooner than a script would have begun: returns once the process is gone, and its sockets with it.
    pub fn kill(&self, n: usize) {
        let pid = self.pid(n);
        let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        assert!(killed.expect("there is a kill").success(), "node {n} runs");
        // The first of its threads may be a zombie before the last is gone.
        while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
            if status.contains("State:\tZ") && status.contains("Threads:\t1\n") {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn pause(&self, n: usize) {
        self.fault("pause", n);
    }

    pub fn resume(&self, n: usize) {
        self.fault("resume", n);
    }

    /// Starts node `n` again, after ending it if it runs: same port, same store. Returns once it answers.
    pub fn restart(&self, n: usize) {
        self.fault("restart", n);
    }

    fn fault(&self, verb: &str, n: usize) {
        let mut command = script().expect("it was there at the start");
        let output = command.arg(verb).arg(&self.dir).arg(n.to_string()).output();
        let output = output.expect("bash runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ci/nats.sh {verb} {n}: {said}");
    }

    /// The process of node `n`, or of the one before it was killed.
    pub fn pid(&self, n: usize) -> u32 {
        let pid = fs::read_to_string(self.dir.join(format!("n{n}/pid"))).expect("a node has a pid");
        pid.trim().parse().expect("a pid is a number")
    }

    /// Major, minor, patch, as node 1 greets with.
    pub fn version(&self) -> (u32, u32, u32) {
        let greeting = self.greeting().expect("node 1 greets");
        let version = greeting.split("\"version\":\"").nth(1).expect("INFO has a version");
        let mut numbers =
            version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        (next(), next(), next())
    }

    fn greeting(&self) -> std::io::Result<String> {
        let stream = TcpStream::connect(self.address(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take()); // its end is the sign to stop
            let _ = keeper.wait();
        }
    }
}

fn script() -> Result<Command, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/nats.sh");
    if !path.exists() {
        return Err("ci/nats.sh is not in a packaged crate".to_owned());
    }
    let mut command = Command::new("bash");
    command.arg(path);
    Ok(command)
}

fn off() -> bool {
    std::env::var_os("KL_NATS").is_some_and(|value| value == "off")
}

fn failed<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "not run: {why}");
    not_run(why)
}

fn not_run<T>(why: &str) -> Option<T> {
    say_not_run(why);
    None
}

/// Past the harness' capture, so that it is seen.
pub fn say_not_run(why: &str) {
    let _ = writeln!(std::io::stderr(), "not run: {why}");
}
