//! One Redis server.

use std::{path::Path, process::Command, sync::OnceLock, time::Duration};

use super::{Certificates, Missing, Port, keeper::Keeper};

/// A Redis starts in 0.1 s; an append-only file of a test is small.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What it prints when it has loaded its data and listens.
const READY: &str = "Ready to accept connections";

/// The programs, and the Debian packages that hold them.
const PROGRAMS: [(&str, &str); 2] = [("redis-server", "redis-server"), ("redis-cli", "redis-tools")];

/// A Redis server, on a port of its own and with a folder of its own. Ends when it is dropped, or when the test does.
///
/// ```no_run
/// # use millstream_testkit::{servers::Redis, started};
/// let redis = started!(Redis::shared());
/// redis.cli(&["SET", "key", "value"]);
/// assert_eq!(redis.cli(&["GET", "key"]), "value");
/// ```
#[derive(Debug)]
pub struct Redis {
    keeper: Keeper,
    port: Port,
    setup: RedisSetup,
    certificates: Option<Certificates>,
}

/// How a Redis server is set up; the default has no password, no TLS, and forgets at its end.
#[derive(Clone, Debug, Default)]
pub struct RedisSetup {
    tls: bool,
    client_certificates: bool,
    persistent: bool,
    password: Option<String>,
    acl: Vec<String>,
    arguments: Vec<String>,
}

impl Redis {
    /// The one that all tests of this process share; use keys of your own, and leave it running.
    pub fn shared() -> Result<&'static Redis, Missing> {
        static SHARED: OnceLock<Result<Redis, Missing>> = OnceLock::new();
        SHARED.get_or_init(Redis::start).as_ref().map_err(Clone::clone)
    }

    /// Starts one for faults, or for a test that wants it empty.
    pub fn start() -> Result<Redis, Missing> {
        Redis::setup().start()
    }

    /// Starts one that is not as usual: `Redis::setup().tls().start()`.
    pub fn setup() -> RedisSetup {
        RedisSetup::default()
    }

    /// `redis://127.0.0.1:PORT`, with `rediss` for TLS and the password if there is one.
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls { "rediss" } else { "redis" };
        let password = self.setup.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("{scheme}://{password}{}", self.address())
    }

    /// Its port, which stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// The certificates of a server with TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The process id, while it is running.
    pub fn pid(&self) -> Option<u32> {
        self.keeper.pid()
    }

    /// Where it keeps its files; gone when it is.
    pub fn folder(&self) -> &Path {
        self.keeper.folder()
    }

    /// What it has printed since it was last started.
    pub fn log(&self) -> String {
        self.keeper.log()
    }

    /// Stands still (SIGSTOP): connections stay open, nothing answers.
    pub fn pause(&self) {
        self.keeper.pause();
    }

    /// Goes on after `pause`.
    pub fn resume(&self) {
        self.keeper.resume();
    }

    /// Kills it (SIGKILL); when this returns, its port refuses connections.
    pub fn kill(&self) {
        self.keeper.kill();
    }

    /// Ends it in good order (SIGTERM).
    pub fn stop(&self) {
        self.keeper.stop();
    }

    /// Kills it if it is running, and starts it again on the same port and folder; a persistent one has kept all that it had
    /// acknowledged.
    pub fn restart(&self) {
        self.kill();
        self.run();
    }

    /// Runs `redis-cli` with these arguments, and answers what it prints. Fails the test if it cannot connect, or if the answer
    /// is an error.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-e", "-p", &self.port().to_string()]);
        if let Some(password) = &self.setup.password {
            cli.env("REDISCLI_AUTH", password);
        }
        if let Some(certificates) = &self.certificates {
            cli.arg("--tls").arg("--cacert").arg(&certificates.authority);
            cli.arg("--cert").arg(&certificates.client).arg("--key").arg(&certificates.client_key);
        }
        printed(cli.args(arguments))
    }

    /// The password, if there is one.
    pub(super) fn secret(&self) -> Option<&str> {
        self.setup.secret()
    }

    /// Whether it can be asked something: it is neither dead nor paused.
    pub(super) fn responds(&self) -> bool {
        self.keeper.responds()
    }

    fn run(&self) {
        let folder = self.keeper.folder().display().to_string();
        let port = self.port().to_string();
        let mut words = vec!["redis-server".to_owned()];
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        add(&["--bind", "127.0.0.1", "--dir", &folder, "--save", "", "--daemonize", "no"]);
        add(if self.setup.persistent {
            &["--appendonly", "yes", "--appendfsync", "always"]
        } else {
            &["--appendonly", "no"]
        });
        match &self.certificates {
            None => add(&["--port", &port]),
            Some(certificates) => {
                let paths = [&certificates.server, &certificates.server_key, &certificates.authority];
                let [server, key, authority] = paths.map(|path| path.display().to_string());
                add(&["--port", "0", "--tls-port", &port, "--tls-cert-file", &server, "--tls-key-file", &key]);
                let clients = if self.setup.client_certificates { "yes" } else { "optional" };
                add(&["--tls-ca-cert-file", &authority, "--tls-auth-clients", clients]);
            }
        }
        if let Some(password) = &self.setup.password {
            add(&["--requirepass", password]);
        }
        if !self.setup.acl.is_empty() {
            add(&["--aclfile", &self.keeper.folder().join("users.acl").display().to_string()]);
        }
        words.extend(self.setup.arguments.iter().cloned());
        self.keeper.start(&words);
        self.keeper.wait_for(READY, READY_WITHIN);
    }
}

impl RedisSetup {
    /// Speaks TLS only; a client may show a certificate, and need not.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Speaks TLS only, and only with clients that show a certificate.
    pub fn client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self.tls()
    }

    /// Keeps what it has acknowledged over `kill` and `restart`: an append-only file, synced each time.
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// The default user has this password.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Adds a line of the ACL file: `user alice on >secret ~orders* +@all`. The default user stays as it is, unless a line names
    /// it; then say its password there and not with `password`.
    pub fn acl(mut self, line: &str) -> Self {
        self.acl.push(line.to_owned());
        self
    }

    /// How much it stores (`10mb`) before it refuses writes.
    pub fn max_memory(self, size: &str) -> Self {
        self.argument("--maxmemory", size).argument("--maxmemory-policy", "noeviction")
    }

    /// Adds an option of `redis-server`: `argument("--maxclients", "3")`.
    pub fn argument(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// What clients of this server, and replicas, have to know.
    pub(super) fn secret(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Starts it, and waits until it answers.
    pub fn start(self) -> Result<Redis, Missing> {
        Missing::any(&PROGRAMS)?;
        if self.tls {
            Missing::any(&[("openssl", "openssl")])?;
        }
        let keeper = Keeper::new("redis");
        let certificates = self.tls.then(|| Certificates::make(keeper.folder()));
        if !self.acl.is_empty() {
            keeper.write("users.acl", &format!("{}\n", self.acl.join("\n")));
        }
        let redis = Redis { keeper, port: Port::claim(), setup: self, certificates };
        redis.run();
        Ok(redis)
    }
}

/// What a command prints; it fails the test when it fails.
#[track_caller]
pub(super) fn printed(command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| panic!("cannot start `{program}`: {error}"));
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
    assert!(output.status.success(), "`{program}` failed ({}): {stdout}\n{stderr}", output.status);
    stdout
}
