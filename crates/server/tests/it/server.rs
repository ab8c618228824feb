//! A server on a free port, with a scripted model.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_engine::Source;
use forebay_engine::scripted::Script;
use forebay_server::config::{Layers, Settings};
use forebay_server::{ServeError, Shutdown, serve};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::Client;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    signals: mpsc::Sender<Shutdown>,
    running: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// Starts with the settings in `toml`; a scripted model called `m` is added.
    pub(crate) async fn start(script: Script, toml: &str) -> Self {
        let server = Self::begin(script, toml).await;
        for _ in 0..200 {
            if server.client().get("/health").await.status == 200 {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server is not healthy after two seconds");
    }

    async fn begin(script: Script, toml: &str) -> Self {
        let mut layers = Layers::default();
        layers.toml(toml, "test");
        if layers.model_count() == 0 {
            layers.toml("[[model]]\npath = \"m.gguf\"\nparallel = 2\nqueue = 2", "test");
        }
        let settings = Settings::resolve(layers).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (signals, receiver) = mpsc::channel(4);
        let receiver = Arc::new(Mutex::new(Some(receiver)));
        let running = tokio::spawn(serve(
            settings,
            listener,
            move |_| Source::Scripted(script.clone()),
            move || {
                let shared = Arc::clone(&receiver);
                async move {
                    let taken = shared.lock().unwrap().take();
                    let Some(mut receiver) = taken else { return std::future::pending().await };
                    let signal = receiver.recv().await;
                    *shared.lock().unwrap() = Some(receiver);
                    match signal {
                        Some(signal) => signal,
                        None => std::future::pending().await,
                    }
                }
            },
        ));
        Self { address, signals, running }
    }

    pub(crate) fn client(&self) -> Client {
        Client { address: self.address }
    }

    pub(crate) async fn signal(&self, signal: Shutdown) {
        self.signals.send(signal).await.unwrap();
    }

    /// How serving ended.
    pub(crate) async fn ended(self) -> Result<(), ServeError> {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, self.running).await.expect("it does not end").unwrap()
    }
}
