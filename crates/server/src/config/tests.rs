use super::*;

const DOCUMENTED: &str = include_str!("../../../../config/forebay.toml");

fn resolve(text: &str, env: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let mut layers = Layers::default();
    layers.toml(text, "f.toml");
    layers.environment(env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    Settings::resolve(layers).map_err(|e| e.0)
}

#[test]
fn the_documented_file_is_the_defaults_and_names_every_setting() {
    assert_eq!(resolve(DOCUMENTED, &[]).unwrap(), Settings::default());
    // The model's settings are commented out in the file; with the marks removed they too must be
    // the defaults, and be all there are.
    let uncommented: String = DOCUMENTED
        .lines()
        .map(|line| match line.strip_prefix(example::COMMENTED) {
            Some(setting) => format!("{setting}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let settings = resolve(&uncommented, &[]).unwrap();
    let example = &settings.models[0];
    let default = ModelSettings {
        path: "models/my-model.gguf".into(),
        name: "my-model".into(),
        aliases: vec!["gpt-4o".into()],
        ..ModelSettings::default()
    };
    assert_eq!(example, &default);
    let (server, limits, admin) = (&settings.server, &settings.limits, &settings.admin);
    let (log, store) = (&settings.log, &settings.store);
    let debug = format!("{server:?} {limits:?} {admin:?} {log:?} {store:?} {example:?}");
    for name in debug.split([' ', '{']).filter_map(|word| word.strip_suffix(':')) {
        assert!(uncommented.contains(&format!("\n{name} = ")), "{name} is not documented");
    }
}

#[test]
fn later_layers_win() {
    let text = "[server]\nport = 1\nhost = \"h\"\n[[model]]\npath = \"a/b.gguf\"\nctx_size = 5";
    let settings =
        resolve(text, &[("FOREBAY_SERVER__PORT", "2"), ("FOREBAY_MODEL__CTX_SIZE", "7")]).unwrap();
    assert_eq!((settings.server.port, settings.server.host.as_str()), (2, "h"));
    assert_eq!((settings.models[0].name.as_str(), settings.models[0].ctx_size), ("b", 7));
    let kubernetes = [("FOREBAY_PORT", "tcp://10.0.0.1:80"), ("FOREBAY_SERVICE_PORT_HTTP", "80")];
    assert_eq!(resolve(text, &kubernetes).unwrap().server.port, 1);
    let settings = resolve(text, &[("FOREBAY_MODEL", "x=1.gguf,2.gguf")]).unwrap();
    let names: Vec<_> = settings.models.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["x", "2"]);
}

#[test]
fn a_text_from_the_environment_may_look_like_another_type() {
    let text = "[[model]]\npath = \"a.gguf\"";
    for (name, is_name) in [("7", "7"), ("true", "true"), ("\"q\"", "q"), ("a b", "a b")] {
        let settings = resolve(text, &[("FOREBAY_MODEL__NAME", name)]).unwrap();
        assert_eq!(settings.models[0].name, is_name);
    }
    let errors = resolve(text, &[("FOREBAY_SERVER__PORT", "true")]).unwrap_err();
    assert!(errors[0].contains("boolean `true`, expected u16"), "{errors:?}");
}

#[test]
fn numbers_of_the_environment_may_have_space_around_and_nothing_else() {
    let port = |text: &str| resolve("", &[("FOREBAY_SERVER__PORT", text)]).map(|s| s.server.port);
    assert_eq!(port(" 8080"), Ok(8080));
    assert_eq!(port("8080 # the usual one"), Ok(8080));
    assert!(port("8080\nq = 1").is_err());
    assert!(port("").is_err());
}

#[test]
fn a_flag_is_taken_literally() {
    let read = |text: &str| {
        let mut layers = Layers::default();
        let value = LayerValue::Argument(text.to_owned());
        layers.set("store.path", value, SettingOrigin::Flag("--store"));
        Settings::resolve(layers).map(|settings| settings.store.path)
    };
    assert_eq!(read("\"q\""), Ok("\"q\"".into()));
    assert_eq!(read("7"), Ok("7".into()));
}

#[test]
fn the_parts_of_gpus_are_lists_or_texts() {
    let parts = |setting: &str, env: &[(&str, &str)]| {
        let text = format!("[[model]]\npath = \"a.gguf\"\n{setting}");
        resolve(&text, env).map(|settings| settings.models[0].tensor_split.parts().to_vec())
    };
    assert_eq!(parts("", &[]).unwrap(), [0; 0]);
    for setting in
        ["tensor_split = [3, 1.5]", "tensor_split = [3.0, 1.5]", "tensor_split = \"3, 1.5\""]
    {
        assert_eq!(parts(setting, &[]).unwrap(), [3_000_000, 1_500_000], "{setting}");
    }
    assert_eq!(parts("", &[("FOREBAY_MODEL__TENSOR_SPLIT", "0,2")]).unwrap(), [0, 2_000_000]);
    assert_eq!(parts("", &[("FOREBAY_MODEL__TENSOR_SPLIT", "[1]")]).unwrap(), [1_000_000]);
    for (wrong, why) in [
        ("[3, -1]", "-1 is not between 0 and 1000000"),
        ("[nan]", "NaN is not between"),
        ("[inf]", "inf is not between"),
        ("[0, 0]", "some GPU has to get a part"),
        ("\"3,\"", "\"\" is no number"),
        ("\"3/1\"", "\"3/1\" is no number"),
        ("true", "a list of numbers, such as [3, 1], or \"3,1\""),
        (
            "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]",
            "17 parts, but there are 16 GPUs at most",
        ),
    ] {
        let errors = parts(&format!("tensor_split = {wrong}"), &[]).unwrap_err();
        assert!(
            errors[0].starts_with("model.0.tensor_split") && errors[0].contains(why),
            "{errors:?}"
        );
    }
    assert_eq!(parts("tensor_split = \"\"", &[]).unwrap(), [0; 0]);
    let tensor = parts("tensor_split = [2, 1]\nsplit_mode = \"tensor\"", &[]).unwrap_err();
    assert_eq!(tensor, ["model.0.tensor_split: split_mode \"tensor\" gives all GPUs equal parts"]);
    let alone = parts("tensor_split = [1, 1]\nsplit_mode = \"none\"", &[]).unwrap_err();
    assert_eq!(alone, ["model.0.tensor_split: split_mode \"none\" gives all to main_gpu"]);
}

#[test]
fn the_cache_is_the_users_unless_it_is_set() {
    let cache = |setting: &str, env: &[(&str, &str)]| {
        let cache = resolve(&format!("[server]\n{setting}"), env).unwrap().cache;
        cache.map(|path| path.display().to_string()).unwrap_or_default()
    };
    let (xdg, home) = (("XDG_CACHE_HOME", "/x"), ("HOME", "/h"));
    assert_eq!(cache("", &[xdg, home]), "/x/forebay");
    assert_eq!(cache("", &[home]), "/h/.cache/forebay");
    assert_eq!(cache("", &[("XDG_CACHE_HOME", "relative"), home]), "/h/.cache/forebay");
    assert_eq!(cache("", &[("XDG_CACHE_HOME", ""), ("HOME", "")]), "");
    assert_eq!(cache("cache_dir = \"\"", &[xdg]), "");
    assert_eq!(cache("cache_dir = \"a/b\"", &[xdg]), "a/b");
    assert_eq!(cache("", &[xdg, ("FOREBAY_SERVER__CACHE_DIR", "")]), "");
}

#[test]
fn all_errors_are_reported_at_once_with_their_origin() {
    let text = "[server]\nport = \"x\"\nprot = 1\n[log]\nlevel = \"a=b=c\"\n[[model]]\nparallel = 0\n[cache]\nsize = 1";
    let errors = resolve(text, &[("FOREBAY_LOG__FORMAT", "xml")]).unwrap_err();
    let expected = [
        "server.port (f.toml): ",
        "log.format (FOREBAY_LOG__FORMAT): ",
        "log.level (f.toml): ",
        "model.0.parallel (f.toml): 0 is not between 1 and 256",
        "model.0.path: which GGUF file?",
        "cache.size (f.toml): no such setting",
        "server.prot (f.toml): no such setting; did you mean server.port?",
    ];
    for start in expected {
        assert!(errors.iter().any(|e| e.starts_with(start)), "{start:?} is missing in {errors:#?}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
}

#[test]
fn an_alias_may_be_the_name_itself() {
    let text = "[[model]]\npath=\"smol.gguf\"\naliases=[\"smol\", \"x\", \"x\"]";
    let settings = resolve(text, &[]).unwrap();
    assert_eq!(settings.models[0].names().collect::<Vec<_>>(), ["smol", "x"]);
}

#[test]
fn two_models_cannot_share_a_name() {
    let errors =
        resolve("[[model]]\npath=\"a.gguf\"\n[[model]]\npath=\"b/a.gguf\"", &[]).unwrap_err();
    assert_eq!(errors, ["two models are called \"a\""]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_limit_of_memory_needs_a_process() {
    let text = "[[model]]\npath=\"a.gguf\"\nmemory_limit_mib = 100\n";
    assert!(resolve(text, &[]).is_ok());
    let errors = resolve(&format!("[server]\nengine_processes = false\n{text}"), &[]).unwrap_err();
    assert_eq!(errors, ["model.0.memory_limit_mib: needs server.engine_processes, and Linux"]);
}

#[test]
fn a_name_is_short_and_can_be_printed() {
    for name in ["nul\\u0000", "two\\nlines", &"x".repeat(257)] {
        let text = format!("[[model]]\npath=\"a.gguf\"\nname=\"{name}\"");
        let errors = resolve(&text, &[]).unwrap_err();
        assert!(errors[0].contains("no control characters"), "{errors:?}");
    }
    for name in ["--help", "-x", "é \\\"ü\\\" 🙂"] {
        assert!(resolve(&format!("[[model]]\npath=\"a.gguf\"\nname=\"{name}\""), &[]).is_ok());
    }
}
