"""The variants of an honest checkpoint by name, and what the message about each must say."""

from tests.recipes.predict.hostile import put, with_config, with_encoder, with_origin

WRITES = {"_target_": "foundation.files.write_text", "path": "written.txt", "text": "x"}
STARTS = {"_target_": "recipes.cli.main.main", "argv": ["recipe=supervised"]}
IMPORTS = {"_target_": "recipes.config.signatures.find_target", "path": "evil.run"}
SYSTEM = {"_target_": "os.system", "command": "touch RAN"}
EVIL = {"_target_": "evil.run"}
WEAK = "datamodules.views.image.Weak"

# name -> (change of the config, key that the message names)
CONFIGS = {
    "methods_write": (put("methods.x", WRITES), "methods.x._target_"),
    "methods_start": (put("methods.x", STARTS), "methods.x._target_"),
    "methods_import": (put("methods.x", IMPORTS), "methods.x._target_"),
    "network_write": (put("network", WRITES), "network._target_"),
    "data_write": (put("data._target_", WRITES["_target_"]), "data._target_"),
    "source_write": (put("data.source", WRITES), "data.source._target_"),
    "source_import": (put("data.source", IMPORTS), "data.source._target_"),
    "further_set_write": (put("data.sources", {"x": WRITES}), "data.sources.x._target_"),
    "further_set_import": (
        put("data.sources", {"x": {"source": IMPORTS, "root": "."}}),
        "data.sources.x.source._target_",
    ),
    "further_set_in_argument": (
        put("data.sources", {"x": {"source": {"a": [WRITES]}}}),
        "data.sources.x.source.a[0]._target_",
    ),
    "view_write": (put("data.views.weak", WRITES), "data.views.weak._target_"),
    "view_in_view_write": (
        put("data.views.strong.weak", WRITES),
        "data.views.strong.weak._target_",
    ),
    "text_import": (put("data.text", IMPORTS), "data.text._target_"),
    "optimizer_write": (put("optimizer", WRITES), "optimizer._target_"),
    "optimizer_import": (put("optimizer", IMPORTS), "optimizer._target_"),
    "scheduler_start": (put("scheduler", STARTS), "scheduler._target_"),
    "trainer_write": (put("trainer", WRITES), "trainer._target_"),
    "trainer_class_of_lightning": (
        put("trainer._target_", "pytorch_lightning.Trainer"),
        "trainer._target_",
    ),
    "checkpoint_write": (put("checkpoint", WRITES), "checkpoint._target_"),
    "logger_write": (put("logger.x", WRITES), "logger.x._target_"),
    "logger_start": (put("logger.x", STARTS), "logger.x._target_"),
    "logger_import": (put("logger.x", IMPORTS), "logger.x._target_"),
    "logger_with_path": (put("logger.x", {"_target_": "evil/../evil.run"}), "logger.x._target_"),
    "logger_with_other_letters": (
        put("logger.x", {"_target_": "ev\u0456l.run"}),
        "logger.x._target_",
    ),
    "logger_is_a_list": (put("logger.x", {"_target_": ["evil.run"]}), "logger.x._target_"),
    "logger_shadow": (put("logger.x", {"_target_": "methods.mine.Mine"}), "logger.x._target_"),
    "logger_through_a_module_of_ours": (
        put("logger.x", {"_target_": "recipes.loggers.tensorboard.os.system"}),
        "logger.x._target_",
    ),
    "logger_of_ours_with_another": (
        put("logger.tensorboard.comment", EVIL),
        "logger.tensorboard.comment._target_ calls 'evil.run'",
    ),
    "logger_partial": (put("logger.tensorboard._partial_", True), "logger.tensorboard._partial_"),
    "loggers_are_a_list": (put("logger", [EVIL]), "logger"),
    "evaluate_start": (put("evaluate.x", STARTS), "evaluate.x._target_"),
    "nested_in_argument": (
        put("methods.fixmatch.weight", WRITES),
        "methods.fixmatch.weight._target_",
    ),
    "nested_in_list": (put("data.source.tasks", [WRITES]), "data.source.tasks[0]._target_"),
    "nested_in_options": (put("network.options.width", IMPORTS), "network.options.width._target_"),
    "nested_in_optimizer_options": (
        put("optimizer.options", {"a": [WRITES]}),
        "optimizer.options.a[0]._target_",
    ),
    "top_level": (put("_target_", "foundation.files.write_text"), "_target_"),
    "unknown_place": (put("extra", WRITES), "extra._target_"),
    "stages": (put("stages", {"a": WRITES}), "stages.a._target_"),
    "os_system": (
        put("scheduler", SYSTEM),
        "scheduler._target_ calls 'os.system', which is not part of Roux",
    ),
    "posix_system": (put("methods.x", SYSTEM | {"_target_": "posix.system"}), "methods.x._target_"),
    "subprocess_run": (
        put("evaluate.x", {"_target_": "subprocess.run", "args": ["touch", "RAN"]}),
        "evaluate.x",
    ),
    "builtins_eval": (
        put("data.views.weak", {"_target_": "builtins.eval"}),
        "data.views.weak._target_",
    ),
    "through_a_module_of_ours": (
        put("scheduler", SYSTEM | {"_target_": "recipes.cli.main.os.system"}),
        "scheduler._target",
    ),
    "through_a_module_at_its_place": (
        put("methods.x", {"_target_": "methods.mixing.torch.hub.load"}),
        "methods.x",
    ),
    "torch_hub_load": (
        put("network", {"_target_": "torch.hub.load", "repo_or_dir": "a/b", "model": "c"}),
        "network",
    ),
    "torch_module": (put("methods.x", {"_target_": "torch.nn.Linear"}), "methods.x._target_"),
    "function_of_methods": (
        put("methods.x", {"_target_": "methods.peft.store.save_delta"}),
        "methods.x._target_",
    ),
    "method_as_a_source": (
        put("data.source._target_", "methods.averaging.ema.EMA"),
        "data.source._target_",
    ),
    "base_class_of_method": (
        put("methods.x", {"_target_": "recipes.contract.method.Method"}),
        "methods.x._target_",
    ),
    "re_exported_class": (
        put("methods.x", {"_target_": "methods.averaging.ema.Method"}),
        "methods.x._target_",
    ),
    "target_is_a_list": (put("trainer._target_", ["os.system"]), "trainer._target_"),
    "target_is_null": (put("trainer._target_", None), "trainer._target_"),
    "target_with_path": (
        put("methods.x", {"_target_": "methods/../evil.run"}),
        "methods.x._target_",
    ),
    "no_target": (put("methods.x", {"weight": 1}), "methods.x"),
    "view_without_target": (put("data.views.weak", {"shift": 0.1}), "data.views.weak"),
    "module_in_the_folder": (put("scheduler", EVIL), "scheduler._target_"),
    "method_in_the_folder": (
        put("methods.mine", {"_target_": "mine.Mine"}),
        "methods.mine._target_",
    ),
    "shadow_of_methods": (
        put("methods.mine", {"_target_": "methods.mine.Mine"}),
        "methods.mine._target_",
    ),
    "partial": (put("methods.fixmatch._partial_", True), "methods.fixmatch._partial_"),
    "args": (put("scheduler._args_", [1]), "scheduler._args_"),
    "recursive": (put("data._recursive_", False), "data._recursive_"),
    "convert": (put("optimizer._convert_", "object"), "optimizer._convert_"),
    "convert_otherwise": (put("network._convert_", "none"), "network._convert_"),
    "partial_in_a_list": (
        put("data.source.tasks", [{"_partial_": True}]),
        "data.source.tasks[0]._partial_",
    ),
    "env": (put("network.name", "${oc.env:ROUX_CANARY}"), "network.name: found the interpolation"),
    "env_within_text": (
        put("network.name", "hf-hub:a/${oc.env:ROUX_CANARY}"),
        "network.name: found the interpol",
    ),
    "env_as_a_key": (
        put("network.options", {"${oc.env:ROUX_CANARY}": 1}),
        "network.options: found the key",
    ),
    "env_in_a_list": (put("data.source.tasks", ["${oc.env:ROUX_CANARY}"]), "data.source.tasks[0]"),
    "env_in_a_setting": (
        put("run_dir", "${oc.env:ROUX_CANARY}"),
        "run_dir: found the interpolation",
    ),
    "decode": (put("optimizer.lr", "${oc.decode:'{_target_: os.system}'}"), "optimizer.lr"),
    "hydra": (put("seed", "${hydra:runtime.cwd}"), "seed: found the interpolation"),
    "relative": (put("data.seed", "${..seed}"), "data.seed: found the interpolation"),
    "escaped": (
        put("network.name", "\\${oc.env:ROUX_CANARY}"),
        "network.name: found the interpolation",
    ),
    "escaped_twice": (
        put("network.name", "\\\\${oc.env:ROUX_CANARY}"),
        "network.name: found the interpolation",
    ),
    "nested_interpolation": (
        put("network.name", "${oc.env:${oc.env:ROUX_CANARY}}"),
        "network.name",
    ),
    "hub_name": (put("network.name", "hf-hub:timm/resnet18.a1_in1k"), "network.name"),
    "hub_name_other_form": (put("network.name", "hf_hub:timm/resnet18.a1_in1k"), "network.name"),
    "folder_name": (put("network.name", "local-dir:forbidden"), "network.name"),
    "address": (put("network.name", "https://example.org/model"), "network.name"),
    "checkpoint_path": (
        put("network.options.checkpoint_path", "forbidden.ckpt"),
        "network.options.checkpoint_path",
    ),
    "pretrained_option": (put("network.options.pretrained", True), "network.options.pretrained"),
    "pretrained_cfg": (
        put("network.options.pretrained_cfg", {"file": "forbidden.ckpt"}),
        "options.pretrained_cfg",
    ),
    "pretrained_cfg_overlay": (
        put("network.options.pretrained_cfg_overlay", {"url": "x"}),
        "pretrained_cfg_overlay",
    ),
    "cache_dir": (put("network.options.cache_dir", "forbidden"), "network.options.cache_dir"),
    "path_as_an_option": (
        put("network.options.width", "../forbidden.ckpt"),
        "network.options.width",
    ),
    "trainer_plugins": (put("trainer.plugins", ["x"]), "trainer.plugins: unknown key"),
    "trainer_callbacks": (put("trainer.callbacks", [IMPORTS]), "trainer.callbacks[0]._target_"),
    "wrong_type": (
        put("methods.fixmatch.threshold", "high"),
        "methods.fixmatch.threshold: got 'high'",
    ),
    "out_of_range": (put("data.batch_size", 0), "data.batch_size: got 0"),
    "mapping_for_a_number": (put("optimizer.lr", {"a": 1}), "optimizer.lr"),
    "unknown_argument": (put("data.source.download", True), "data.source.download: unknown key"),
    "unknown_key": (put("hydra", {"run": {"dir": "x"}}), "hydra: unknown key"),
    "methods_is_a_list": (put("methods", [WRITES]), "methods"),
    "network_is_null": (put("network", None), "network"),
    "data_is_text": (put("data", "x"), "data"),
    "view_as_a_number": (
        put("data.views.strong.n", {"_target_": WEAK}),
        "data.views.strong.n._target_",
    ),
}

# name -> (text of the config, new text, words of the message)
TEXTS = {
    "python_name": ("seed: 0", "seed: !!python/name:os.system", "seed: found the YAML tag"),
    "python_apply": (
        "seed: 0",
        "seed: !!python/object/apply:os.system ['touch RAN']",
        "seed: found the YAML tag",
    ),
    "python_module": ("seed: 0", "seed: !!python/module:evil", "seed: found the YAML tag"),
    "python_path": (
        "seed: 0",
        "seed: !!python/object/apply:pathlib.PosixPath [x]",
        "seed: found the YAML tag",
    ),
    "tag_of_a_key": ("seed: 0", "!!python/name:os.system x: 0", "config: found the key"),
    "own_tag": ("seed: 0", "seed: !evil 0", "seed: found the YAML tag '!evil'"),
    "binary": ("seed: 0", "seed: !!binary aGk=", "seed: found the YAML tag"),
    "alias": ("seed: 0", "seed: &a 0\nrecipe2: *a", "recipe2: found an alias"),
    "merge": ("seed: 0", "a: &a {x: 1}\nb:\n  <<: *a\nseed: 0", "b: found the key"),
    "written_in_hex": (
        "name: digits_cnn",
        'name: "\\x24{oc.env:ROUX_CANARY}"',
        "network.name: found the interpol",
    ),
    "unicode_escape": (
        "name: digits_cnn",
        'name: "\\u0024\\u007boc.env:HOME}"',
        "network.name: found the interpol",
    ),
    "over_two_lines": (
        "name: digits_cnn",
        'name: "$\\\n    {oc.env:ROUX_CANARY}"',
        "network.name: found the interpol",
    ),
    "block_text": (
        "name: digits_cnn",
        "name: |-\n    ${oc.env:ROUX_CANARY}",
        "network.name: found the interpolation",
    ),
    "twice": ("seed: 0", "seed: 0\nseed: 1", "the key 'seed' twice"),
    "broken": ("seed: 0", "seed: [0", "is not YAML"),
    "second_document": ("stages: null", "---\nstages: null", "is not YAML"),
    "deep": ("seed: 0", "seed: " + "[" * 60 + "]" * 60, "nested too deeply"),
    "very_deep": ("seed: 0", "seed: " + "[" * 20000, "nested too deeply"),
    "line_break_in_a_key": ("seed: 0", 'seed: 0\n"a\\nb": 1', "config: found the key"),
}

# change of the checkpoint, words of the message
ORIGINS = {
    "config_null": (with_origin("config", None), "provenance.config"),
    "config_mapping": (with_origin("config", {"seed": 0}), "provenance.config"),
    "config_number": (with_origin("config", 3), "provenance.config"),
    "config_empty": (with_origin("config", ""), "not a mapping"),
    "config_list": (with_origin("config", "[1]"), "not a mapping"),
    "config_short": (with_origin("config", "seed: 0"), "supervised_weight: is missing"),
    "facts_null": (with_origin("facts", None), "provenance.facts"),
    "facts_unknown": (with_origin("facts", {"x": 1}), "provenance.facts.classes: missing"),
    "input_size_text": (with_origin("input_size", "x"), "provenance.input_size"),
    "encoder_mapping": (with_origin("encoder", {"a": 1}), "provenance.encoder"),
    "encoder_for_pictures": (with_origin("encoder", '{"model_type": "bert"}'), "facts.tokenizer"),
    "provenance_text": (
        lambda content: content.update(provenance="x"),
        "provenance: found 'x'; expected a mapping",
    ),
    "provenance_list": (
        lambda content: content.update(provenance=[1]),
        "provenance: found a list of 1; expected a mapping",
    ),
    "weights_null": (lambda content: content.update(state_dict=None), "state_dict: found null"),
}

ENCODERS = {
    "auto_map": (with_encoder(auto_map={"AutoModel": "evil.Model"}), "encoder.auto_map"),
    "auto_map_of_a_hub": (
        with_encoder(auto_map={"AutoConfig": "a/b--evil.C"}, model_type="new"),
        "encoder.auto_map",
    ),
    "quantization": (
        with_encoder(quantization_config={"quant_method": "awq"}),
        "encoder.quantization_config",
    ),
    "attention_kernel": (
        with_encoder(_attn_implementation="kernels-community/x"),
        "encoder._attn_implementation",
    ),
    "attention_kernel_other_form": (
        with_encoder(attn_implementation="a/b"),
        "encoder.attn_implementation",
    ),
    "backbone": (
        with_encoder(text_config={"backbone": "a/b", "use_pretrained_backbone": True}),
        "config.backbone",
    ),
    "timm_wrapper": (
        with_encoder(model_type="timm_wrapper", architecture="hf-hub:a/b"),
        "encoder.model_type",
    ),
    "unknown_model_type": (with_encoder(model_type="evil"), "encoder.model_type: found 'evil'"),
    "no_json": (with_origin("encoder", "{"), "encoder: is not JSON"),
    "no_mapping": (with_origin("encoder", "[1]"), "encoder: found list"),
    "no_encoder": (
        with_origin("encoder", None),
        "network.name: the checkpoint has no text encoder",
    ),
    "hub_name_without_encoder": (with_config(put("network.name", "bert-base-uncased")), ""),
}

# texts: names of files and hubs that training would follow
HARMLESS = {
    "tokenizer_of_a_hub": put("data.text.network", "bert-base-uncased"),
    "tokenizer_name": put("data.text.tokenizer", "https://example.org/x"),
    "weights_of_a_hub": put("network.pretrained", True),
    "weights_of_a_file": put("network.checkpoint", "forbidden.ckpt"),
    "delta_of_a_file": put(
        "methods.lora", {"_target_": "methods.peft.lora.LoRA", "load": "forbidden.ckpt"}
    ),
    "data_of_a_file": put("data.source.train_file", "forbidden.ckpt"),
    "root": put("data.root", "forbidden"),
    "run_dir": put("run_dir", "forbidden/run"),
    "resume": put("resume", "forbidden.ckpt"),
}

# what only training calls: it is neither imported nor called
UNUSED = {
    "logger": put("logger.x", EVIL),
    "logger_of_the_system": put("logger.x", SYSTEM),
    "logger_with_another": put("logger.x", {"_target_": "mine.Mine", "a": [EVIL]}),
    "logger_with_arguments": put("logger.x", EVIL | {"_args_": [1], "_partial_": True}),
    "callback": put("callbacks", {"x": EVIL}),
    "callbacks_are_a_list": put("callbacks", [SYSTEM]),
    "profiler": put("trainer.profiler", EVIL),
}
