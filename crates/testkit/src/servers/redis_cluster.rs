//! A Redis Cluster: three masters, each with a replica.

use std::{sync::OnceLock, time::Duration};

use super::{Missing, Port, Redis, RedisSetup, wait_until};

const MASTERS: usize = 3;
const NODES: usize = 2 * MASTERS;

/// After so long without an answer a node counts as dead, and its replica takes over.
const NODE_TIMEOUT_MS: &str = "2000";

/// The same where no node is to die: while the nodes are made known to each other, which a machine that stands still for a moment
/// would end for good, and in the cluster that is shared.
const PATIENT_TIMEOUT_MS: &str = "30000";

/// How long the nodes may take to agree, on a machine that builds something meanwhile.
const AGREED_WITHIN: Duration = Duration::from_secs(60);

/// How long a key may take to move: they are small.
const MIGRATE_WITHIN_MS: &str = "5000";

/// Six nodes, numbered from 0; each is a [`Redis`] of its own, which can be paused, killed and started again. Ends when it is
/// dropped, or when the test does.
///
/// ```no_run
/// # use millstream_testkit::{servers::RedisCluster, started};
/// let cluster = started!(RedisCluster::start());
/// let slot = cluster.slot("orders");
/// cluster.node(cluster.master(slot)).kill();
/// ```
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    /// Where the nodes talk to each other.
    _buses: Vec<Port>,
}

/// What a node knows of one: a line of `CLUSTER NODES`.
#[derive(Debug)]
struct Known {
    id: String,
    port: u16,
    master: bool,
    failed: bool,
    /// The id of its master.
    follows: String,
    /// First and last.
    slots: Vec<(u16, u16)>,
}

impl RedisCluster {
    /// The one that all tests of this process share; use keys of your own, and leave it as it is.
    pub fn shared() -> Result<&'static RedisCluster, Missing> {
        static SHARED: OnceLock<Result<RedisCluster, Missing>> = OnceLock::new();
        SHARED.get_or_init(|| RedisCluster::form(Redis::setup())).as_ref().map_err(Clone::clone)
    }

    /// Starts one, and waits until it works.
    pub fn start() -> Result<RedisCluster, Missing> {
        RedisCluster::start_with(Redis::setup())
    }

    /// Starts one of nodes that are set up like this: `Redis::setup().persistent().password("secret")`. TLS is not for clusters
    /// here.
    pub fn start_with(setup: RedisSetup) -> Result<RedisCluster, Missing> {
        let cluster = RedisCluster::form(setup)?;
        cluster.set_timeout(NODE_TIMEOUT_MS);
        Ok(cluster)
    }

    /// A cluster whose nodes are patient with each other, unless they are started again.
    fn form(setup: RedisSetup) -> Result<RedisCluster, Missing> {
        let buses: Vec<_> = (0..NODES).map(|_| Port::claim()).collect();
        let start = |bus: &Port| {
            let mut node = setup.clone().argument("--cluster-enabled", "yes");
            node = node
                .argument("--cluster-config-file", "nodes.conf")
                .argument("--cluster-node-timeout", NODE_TIMEOUT_MS);
            // Usually a master waits 5 s for more replicas before it sends its data.
            node = node.argument("--repl-diskless-sync-delay", "0");
            if let Some(password) = setup.secret() {
                node = node.argument("--masterauth", password);
            }
            node.argument("--cluster-port", &bus.number().to_string()).start()
        };
        let nodes = buses.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let cluster = RedisCluster { nodes, _buses: buses };
        cluster.set_timeout(PATIENT_TIMEOUT_MS);
        let addresses = cluster.addresses();
        let create = ["--cluster", "create", "--cluster-replicas", "1", "--cluster-yes"];
        let arguments: Vec<_> = create[..2].iter().copied().chain(addresses.iter().map(String::as_str)).collect();
        cluster.nodes[0].cli(&[arguments.as_slice(), &create[2..]].concat());
        cluster.wait_until_ok();
        // A replica that has loaded what there was may get what is written next a second later: only then all is in order. Before
        // anything is in the cluster this is a write that needs no key.
        for master in &cluster.nodes[..MASTERS] {
            master.cli(&["FUNCTION", "FLUSH"]);
        }
        cluster.wait_until_ok();
        Ok(cluster)
    }

    fn set_timeout(&self, ms: &str) {
        for node in &self.nodes {
            node.cli(&["CONFIG", "SET", "cluster-node-timeout", ms]);
        }
    }

    /// `redis://127.0.0.1:PORT,127.0.0.1:PORT,...`: all nodes.
    pub fn url(&self) -> String {
        let first = self.nodes[0].url();
        let others = self.nodes[1..].iter().map(Redis::address);
        std::iter::once(first).chain(others).collect::<Vec<_>>().join(",")
    }

    /// `127.0.0.1:PORT` of each node.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::address).collect()
    }

    /// The nodes. After the start the first three are masters.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// Runs `redis-cli`, which goes to the node that the key is on.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> String {
        self.asked().cli(&[&["-c"], arguments].concat())
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        let slot = self.asked().cli(&["CLUSTER", "KEYSLOT", key]);
        slot.parse().unwrap_or_else(|_| panic!("`{slot}` is no slot"))
    }

    /// The node that has a slot, as the first that runs sees it.
    pub fn master(&self, slot: u16) -> usize {
        let known = known(self.asked());
        let found = known.iter().find(|node| node.has(slot));
        self.index(found.unwrap_or_else(|| panic!("no node has slot {slot}")).port)
    }

    /// The node that follows the master of a slot; waits until there is one.
    pub fn replica(&self, slot: u16) -> usize {
        let mut replica = None;
        wait_until("followed by a replica", AGREED_WITHIN, || {
            let known = known(self.asked());
            let master = known.iter().find(|node| node.has(slot)).map(|node| node.id.as_str());
            let found = known.iter().find(|node| !node.failed && Some(node.follows.as_str()) == master);
            replica = found.map(|node| node.port);
            replica.is_some()
        });
        // The wait has ended well.
        self.index(replica.unwrap_or_default())
    }

    /// Makes the replica of a slot its master, in good order; answers which that is, when all running nodes know it.
    pub fn fail_over(&self, slot: u16) -> usize {
        let (old, new) = (self.master(slot), self.replica(slot));
        self.nodes[new].cli(&["CLUSTER", "FAILOVER"]);
        self.wait_for_master_other_than(old, slot)
    }

    /// Waits until all running nodes agree that a slot has another master than `old`; answers which.
    pub fn wait_for_master_other_than(&self, old: usize, slot: u16) -> usize {
        let old = self.nodes[old].port();
        self.wait_for("led by another master", |known| {
            known.iter().any(|node| node.has(slot) && !node.failed && node.port != old)
        });
        self.master(slot)
    }

    /// Moves a slot with its keys to another master, one key after the other.
    pub fn move_slot(&self, slot: u16, to: usize) {
        let moving = self.start_move(slot, to);
        while moving.move_keys(100) > 0 {}
        moving.finish();
    }

    /// Begins to move a slot: from now on a key that is not there any more, or not yet, is answered with `ASK`.
    pub fn start_move(&self, slot: u16, to: usize) -> SlotMove<'_> {
        let from = self.master(slot);
        assert_ne!(from, to, "slot {slot} is there already");
        let moving = SlotMove { cluster: self, slot, from, to };
        moving.set(to, "IMPORTING", from);
        moving.set(from, "MIGRATING", to);
        moving
    }

    /// Waits until all running nodes say that the cluster works, and agree about who has what, and each running replica has
    /// all that its master had when this was called.
    pub fn wait_until_ok(&self) {
        let had: Vec<_> = self.running().map(|node| (node.port().to_string(), offset(&replication(node)))).collect();
        wait_until("a cluster that works", AGREED_WITHIN, || {
            let mut running = self.running();
            let seen = |node: &Redis| {
                let mut masters: Vec<_> = known(node).into_iter().filter(|node| !node.slots.is_empty()).collect();
                masters.sort_by_key(|node| node.port);
                masters.into_iter().map(|node| (node.port, node.slots)).collect::<Vec<_>>()
            };
            let first = self.running().next().map(seen).unwrap_or_default();
            running.all(|node| {
                node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && seen(node) == first
                    && has_all(node, &had)
            })
        });
    }

    fn wait_for(&self, what: &str, agreed: impl Fn(&[Known]) -> bool) {
        wait_until(what, AGREED_WITHIN, || self.running().all(|node| agreed(&known(node))));
    }

    fn running(&self) -> impl Iterator<Item = &Redis> {
        self.nodes.iter().filter(|node| node.responds())
    }

    fn asked(&self) -> &Redis {
        self.running().next().unwrap_or_else(|| panic!("no node of the cluster is running"))
    }

    fn index(&self, port: u16) -> usize {
        let found = self.nodes.iter().position(|node| node.port() == port);
        found.unwrap_or_else(|| panic!("no node has port {port}"))
    }
}

/// A slot on its way from one master to another.
#[derive(Debug)]
pub struct SlotMove<'a> {
    cluster: &'a RedisCluster,
    slot: u16,
    from: usize,
    to: usize,
}

impl SlotMove<'_> {
    /// Moves up to so many keys; answers how many there were.
    pub fn move_keys(&self, count: usize) -> usize {
        let from = &self.cluster.nodes[self.from];
        let keys = from.cli(&["CLUSTER", "GETKEYSINSLOT", &self.slot.to_string(), &count.to_string()]);
        let keys: Vec<_> = keys.lines().filter(|key| !key.is_empty()).collect();
        keys.iter().for_each(|key| self.move_key(key));
        keys.len()
    }

    /// Moves one key.
    pub fn move_key(&self, key: &str) {
        let port = self.cluster.nodes[self.to].port().to_string();
        let mut arguments = vec!["MIGRATE", "127.0.0.1", &port, key, "0", MIGRATE_WITHIN_MS];
        if let Some(password) = self.cluster.nodes[self.from].secret() {
            arguments.extend(["AUTH", password]);
        }
        self.cluster.nodes[self.from].cli(&arguments);
    }

    /// Hands the slot over: from now on the old master answers with `MOVED`. Fails the test if there are keys left.
    pub fn finish(self) {
        for node in [self.to, self.from] {
            self.set(node, "NODE", self.to);
        }
        let masters = self.cluster.running().filter(|node| node.cli(&["ROLE"]).starts_with("master"));
        for node in masters {
            self.set(self.cluster.index(node.port()), "NODE", self.to);
        }
        let port = self.cluster.nodes[self.to].port();
        self.cluster.wait_for("moved", |known| known.iter().any(|node| node.has(self.slot) && node.port == port));
    }

    /// Tells a node what happens to the slot.
    fn set(&self, node: usize, what: &str, other: usize) {
        let id = self.cluster.nodes[other].cli(&["CLUSTER", "MYID"]);
        self.cluster.nodes[node].cli(&["CLUSTER", "SETSLOT", &self.slot.to_string(), what, &id]);
    }
}

impl Known {
    fn parse(line: &str) -> Option<Known> {
        let words: Vec<_> = line.split(' ').collect();
        let [id, address, flags, follows, _, _, _, _, slots @ ..] = words.as_slice() else { return None };
        let port = address.split('@').next()?.rsplit(':').next()?.parse().ok()?;
        let range = |slots: &&str| {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        let flags: Vec<_> = flags.split(',').collect();
        Some(Known {
            id: (*id).to_owned(),
            port,
            master: flags.contains(&"master"),
            failed: flags.contains(&"fail"),
            follows: (*follows).to_owned(),
            // What is in brackets is on its way.
            slots: slots.iter().filter_map(range).collect(),
        })
    }

    fn has(&self, slot: u16) -> bool {
        self.master && self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

fn known(node: &Redis) -> Vec<Known> {
    node.cli(&["CLUSTER", "NODES"]).lines().filter_map(Known::parse).collect()
}

fn replication(node: &Redis) -> String {
    node.cli(&["INFO", "replication"])
}

fn field<'a>(told: &'a str, name: &str) -> &'a str {
    told.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
}

/// How much of what was ever written a node has.
fn offset(replication: &str) -> u64 {
    field(replication, "master_repl_offset:").parse().unwrap_or_default()
}

/// A replica is connected, and has what its master had; of a master nothing is asked.
fn has_all(node: &Redis, had: &[(String, u64)]) -> bool {
    let told = replication(node);
    let master = field(&told, "master_port:");
    let connected = field(&told, "master_link_status:") == "up";
    let caught_up = || had.iter().all(|(port, had)| port != master || offset(&told) >= *had);
    field(&told, "role:") == "master" || connected && caught_up()
}
