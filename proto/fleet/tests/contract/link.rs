//! A wire between a client and a registry that a test can cut, or make silent.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Whole,
    /// Connections are closed, and new ones at once.
    Cut,
    /// Connections stay and carry nothing.
    Silent,
}

pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    wire: watch::Sender<Wire>,
    // Dropping it ends all connections.
    _tasks: JoinSet<()>,
}

impl Link {
    pub(crate) async fn to(registry: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = watch::Sender::new(Wire::Whole);
        let state = wire.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(carry(client, registry, state.clone()));
            }
        });
        Self { address, wire, _tasks: tasks }
    }

    pub(crate) fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    pub(crate) fn silence(&self) {
        self.wire.send_replace(Wire::Silent);
    }

    pub(crate) fn mend(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

/// What was carried half when the wire broke is lost, so the connection ends with the break.
async fn carry(mut client: TcpStream, registry: SocketAddr, mut wire: watch::Receiver<Wire>) {
    if *wire.borrow_and_update() == Wire::Whole {
        let Ok(mut server) = TcpStream::connect(registry).await else { return };
        tokio::select! {
            _ended = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
            _broken = wire.wait_for(|wire| *wire != Wire::Whole) => {}
        }
        let _mended = wire.wait_for(|wire| *wire != Wire::Silent).await;
        return;
    }
    let _mended = wire.wait_for(|wire| *wire != Wire::Silent).await;
}
