//! One PostgreSQL server.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use super::{Missing, Port, keeper::Keeper, redis::printed};

/// It starts in under a second; a busy machine may take longer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What it prints when it takes connections.
const READY: &str = "database system is ready to accept connections";

/// Where Debian puts the programs of each version, outside the `PATH`.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The user of Debian's package, and the one who owns the databases here.
const USER: &str = "postgres";

/// A PostgreSQL server with an empty database, on a port of its own and with a folder of its own. Ends when it is dropped, or
/// when the test does.
///
/// ```no_run
/// # use millstream_testkit::{servers::Postgres, started};
/// let postgres = started!(Postgres::shared());
/// assert_eq!(postgres.sql("SELECT 1 + 1"), "2");
/// ```
#[derive(Debug)]
pub struct Postgres {
    keeper: Keeper,
    port: Port,
    programs: PathBuf,
}

impl Postgres {
    /// The one that all tests of this process share; use tables of your own, and leave it running.
    pub fn shared() -> Result<&'static Postgres, Missing> {
        static SHARED: OnceLock<Result<Postgres, Missing>> = OnceLock::new();
        SHARED.get_or_init(Postgres::start).as_ref().map_err(Clone::clone)
    }

    /// Starts one for a test that wants it empty.
    pub fn start() -> Result<Postgres, Missing> {
        let programs = programs()?;
        let postgres = Postgres { keeper: Keeper::new("postgres"), port: Port::claim(), programs };
        let folder = postgres.keeper.folder().display().to_string();
        if is_root() {
            // It refuses to be root; its user gets the folder.
            printed(Command::new("chown").args([USER, &folder]));
        }
        let data = format!("{folder}/data");
        let initdb = ["-D", &data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
        let initdb = postgres.command("initdb", &initdb);
        let [program, arguments @ ..] = &initdb[..] else { unreachable!("it has a program") };
        printed(Command::new(program).args(arguments).current_dir(&folder));
        postgres.run();
        Ok(postgres)
    }

    /// `postgres://postgres@127.0.0.1:PORT/postgres`.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@{}/postgres", self.port.address())
    }

    /// Runs `psql` with these statements, and answers the values: a line for each row, `|` between columns. Fails the test if
    /// it cannot connect, or at an error.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]);
        printed(psql.arg(self.url()).args(["--command", statements]))
    }

    fn run(&self) {
        let folder = self.keeper.folder().display().to_string();
        let (data, port) = (format!("{folder}/data"), self.port.number().to_string());
        // What it keeps ends with the test, so it need not reach the disk.
        let listen = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"];
        let arguments = [["-D", &data, "-p", &port, "-k", &folder].as_slice(), &listen].concat();
        self.keeper.start(&self.command("postgres", &arguments));
        self.keeper.wait_for(READY, READY_WITHIN);
    }

    /// A program of the server with its arguments, as a user that may run it.
    fn command(&self, program: &str, arguments: &[&str]) -> Vec<String> {
        let program = self.programs.join(program).display().to_string();
        let user = format!("--reuid={USER}");
        let group = format!("--regid={USER}");
        let other = if is_root() { vec!["setpriv", &user, &group, "--clear-groups"] } else { Vec::new() };
        let words = other.into_iter().chain([program.as_str()]).chain(arguments.iter().copied());
        words.map(str::to_owned).collect()
    }
}

/// The folder of the newest version that is installed.
fn programs() -> Result<PathBuf, Missing> {
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let newest = versions.filter(|folder| has_all(folder)).max_by_key(|folder| version(folder));
    let folders = || std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    newest
        .or_else(|| folders().into_iter().find(|folder| has_all(folder)))
        .ok_or_else(|| Missing::new("`postgres` is not installed (package postgresql; `cargo xtask test` installs it)"))
}

fn has_all(folder: &Path) -> bool {
    ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).is_file())
}

/// 15 of `/usr/lib/postgresql/15/bin`.
fn version(folder: &Path) -> Option<u32> {
    folder.parent()?.file_name()?.to_str()?.parse().ok()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
