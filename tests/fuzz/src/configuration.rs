//! Configuration files and environment variables: every error is reported, and what is accepted is
//! within the documented ranges, whatever the order of things.

use forebay_server::config::{Layers, Settings};

pub fn run(data: &[u8]) {
    let Some(([split], text)) = crate::parts(data) else { return };
    // Lines `NAME=value` behind a line of `---` are the environment.
    let (file, environment) = text.split_once("\n---\n").unwrap_or((&text, ""));
    let variables = || {
        let pairs = environment.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let resolve = |files: &[&str]| {
        let mut layers = Layers::default();
        files.iter().for_each(|file| layers.toml(file, "fuzz.toml"));
        layers.environment(variables());
        Settings::resolve(layers)
    };
    let whole = resolve(&[file]);
    assert_eq!(format!("{whole:?}"), format!("{:?}", resolve(&[file])));
    check(whole);
    // Two files, cut somewhere.
    let at = (0..=file.len())
        .rev()
        .find(|&at| at <= file.len() * usize::from(split) / 255 && file.is_char_boundary(at));
    let (front, back) = file.split_at(at.unwrap_or(0));
    check(resolve(&[front, back]));
}

fn check(resolved: Result<Settings, forebay_server::config::ConfigErrors>) {
    match resolved {
        Err(errors) => {
            assert!(!errors.0.is_empty() && errors.0.iter().all(|error| !error.is_empty()));
        }
        Ok(Settings { server, store, models, .. }) => {
            assert!((1..=1_000_000).contains(&server.max_connections));
            assert!((1024..=1 << 30).contains(&server.max_body_bytes));
            assert!((1..=128).contains(&server.max_choices));
            assert!((1..=1 << 20).contains(&store.max_mib));
            for model in &models {
                assert!((1..=256).contains(&model.parallel));
                assert!(model.ctx_size <= 1 << 24 && model.queue <= 100_000);
                assert!(!model.path.as_os_str().is_empty());
            }
        }
    }
}
