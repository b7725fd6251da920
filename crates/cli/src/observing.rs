//! What a running process tells of itself: on `--listen`, and on its control socket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use millstream::{
    BufferStatus, GroupHandle, GroupStatus, Home, Span,
    buffer::BufferFigures,
    core::{Error, Result},
    key_reader,
    observe::{
        BufferReport, Observed, Observer, READY_WITHIN, ReadBuffers,
        control::ControlSocket,
        http::{Reach, Server, address},
    },
    registry,
    runtime::Phase,
};
use tokio::task::JoinSet;

use crate::{story::Story, stream::readable, talk::Talk};

/// Whom it answers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Watching")]
pub(crate) struct ListenArgs {
    /// Serve /metrics (Prometheus), /status (JSON), /health and /ready over HTTP at this address; port 0 takes a free one
    #[arg(long, value_name = "ADDR", value_parser = |text: &str| address(text).map_err(readable))]
    listen: Option<SocketAddr>,
    /// Let --listen take an address that other machines can reach
    #[arg(long, requires = "listen")]
    listen_public: bool,
    /// /ready says no when records have been under way for longer without an epoch being committed
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "listen", value_parser = |text: &str| text.parse::<Span>().map_err(readable))]
    ready_within: Span,
}

/// How a process can be watched.
#[derive(Clone, Debug)]
pub(crate) struct Watching {
    listen: Option<(SocketAddr, Reach)>,
    ready_within: Duration,
    /// The state directory, with its control socket; absent: none.
    home: Option<Home>,
}

impl Watching {
    /// Only by the control socket of a state directory, if there is one.
    pub(crate) fn socket(home: Option<Home>) -> Self {
        Watching { listen: None, ready_within: READY_WITHIN, home }
    }
}

impl ListenArgs {
    pub(crate) fn watching(&self, home: Home) -> Watching {
        let reach = if self.listen_public { Reach::Anyone } else { Reach::Loopback };
        Watching {
            listen: self.listen.map(|address| (address, reach)),
            ready_within: self.ready_within.0,
            home: Some(home),
        }
    }
}

/// The servers of a process; they end with it.
pub(crate) struct Watched {
    observer: Observer,
    home: Option<Home>,
    servers: JoinSet<()>,
}

impl Watched {
    /// Begins to answer. That the address cannot be had is an error; that the socket cannot be made is none.
    pub(crate) async fn start(watching: &Watching, talk: &Talk) -> Result<Self> {
        let observer = Observer::new(watching.ready_within, registry());
        let mut servers = JoinSet::new();
        if let Some((address, reach)) = watching.listen {
            let server = Server::bind(address, reach).await?;
            talk.say(&format!("listening on http://{}: /metrics, /status, /health, /ready", server.address()));
            servers.spawn(server.serve(observer.clone()));
        }
        if let Some(home) = &watching.home {
            match ControlSocket::bind(home.directory()) {
                Ok(socket) => drop(servers.spawn(answer(socket, observer.clone()))),
                Err(error) => {
                    tracing::info!(error = %error.chain(), "`millstream top`, `tap` and `status` cannot ask this process")
                }
            }
        }
        #[cfg(feature = "otlp")]
        if let Some(exporter) = millstream::observe::otlp::Exporter::from_environment()? {
            servers.spawn(exporter.run(observer.clone()));
        }
        Ok(Watched { observer, home: watching.home.clone(), servers })
    }

    /// A pipeline has been started.
    pub(crate) fn add(&self, observed: Observed, story: &Story) {
        let hiding = story.clone();
        let view = self.home.as_ref().and_then(|home| home.view(&story.name));
        let mut observed = observed.hiding(Arc::new(move |text: &str| hiding.hide(text)));
        if let Some(view) = view {
            observed = observed.with_state(Arc::new(move |stage, limit| {
                let shown = view.show(stage, limit, key_reader)?;
                Ok(serde_json::to_value(&shown).unwrap_or_default())
            }));
        }
        self.observer.add(observed);
    }

    /// A pipeline has failed, and others may run on.
    pub(crate) fn failed(&self, story: &Story, error: &Error) {
        self.observer.failed(&story.name, error);
    }

    /// Ends the servers, and removes what they have made.
    pub(crate) async fn close(mut self) {
        self.servers.shutdown().await;
    }
}

/// How the buffers of a pipeline are read: all of them, or the one of a task.
pub(crate) fn buffers(pipeline: &str, group: GroupHandle, task: Option<String>) -> Arc<ReadBuffers> {
    let pipeline = pipeline.to_owned();
    Arc::new(move || {
        let GroupStatus { pipeline: status, buffers } = group.status();
        let wanted = buffers.into_iter().filter(|(sink, _)| match &task {
            Some(task) => task.strip_prefix(&pipeline).and_then(|rest| rest.strip_prefix('.')) == Some(sink),
            None => true,
        });
        let report = |(sink, buffer): (String, BufferStatus)| {
            let BufferFigures { records, bytes, disk_bytes, disk_bytes_max, oldest_age, dropped, waiting } =
                buffer.figures;
            // Or its disk is full.
            let trouble = || match status.as_ref().map(|status| (&status.phase, status.waiting.get(&sink))) {
                Some((Phase::Restarting(cause), _)) if cause.starts_with(&format!("{sink}: ")) => Some(cause.clone()),
                Some((_, waiting)) => waiting.cloned(),
                None => None,
            };
            BufferReport {
                pipeline: pipeline.clone(),
                waiting: buffer.waiting.or_else(trouble),
                sink,
                records,
                bytes,
                disk_bytes,
                disk_bytes_max,
                fill: if disk_bytes_max == 0 { 0.0 } else { (disk_bytes as f64 / disk_bytes_max as f64).min(1.0) },
                oldest_age_seconds: oldest_age.map(|age| age.as_secs_f64()),
                dropped,
                waiting_seconds: waiting.map(|waiting| waiting.as_secs_f64()),
            }
        };
        wanted.map(report).collect()
    })
}

async fn answer(socket: ControlSocket, observer: Observer) {
    if let Err(error) = socket.serve(observer).await {
        tracing::warn!(error = %error.chain(), "the control socket is closed");
    }
}
