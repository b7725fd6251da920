//! What a running process tells of itself: on `--listen`, and on its control socket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use millstream::{
    Home, Span,
    core::{Error, Result},
    key_reader,
    observe::{
        Observed, Observer, READY_WITHIN, Shape,
        control::ControlSocket,
        http::{Reach, Server, address},
    },
    registry,
    runtime::Handle,
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
    pub(crate) fn add(&self, shape: Shape, story: &Story, handle: Handle) {
        let hiding = story.clone();
        let view = self.home.as_ref().and_then(|home| home.view(&story.name));
        let mut observed = Observed::new(shape, handle).hiding(Arc::new(move |text: &str| hiding.hide(text)));
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

async fn answer(socket: ControlSocket, observer: Observer) {
    if let Err(error) = socket.serve(observer).await {
        tracing::warn!(error = %error.chain(), "the control socket is closed");
    }
}
