//! Models of images: what candle has in a small size, of small images where it takes them.

use serde_json::{Value, json};

use super::folders::{changed, open};
use crate::Kind;

/// A folder of timm's, of an architecture and a side.
fn timm(architecture: &str, side: u32, classes: u32) -> tempfile::TempDir {
    changed("", 5, |config| {
        *config = json!({
            "architecture": architecture, "num_classes": classes, "torch_dtype": "float32",
            "pretrained_cfg": {"input_size": [3, side, side]},
        });
    })
}

/// Whether a model gives `width` numbers for each image, whichever stands beside it, and others for another.
fn looks(name: &str, folder: &tempfile::TempDir, width: u32) {
    let mut model = open(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
    let Kind::Maps { row, width: found } = model.facts().kind.clone() else {
        panic!("{name} maps no rows")
    };
    assert_eq!(found, width, "{name}");
    let numbers = row.iter().product::<usize>() as i32;
    let image = |seed: i32| (0..numbers).map(move |at| ((at * seed) % 127 - 63) << 10);
    let mut map =
        |rows: Vec<i32>| model.map(&rows).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (one, other) = (map(image(7).collect()), map(image(11).collect()));
    assert_eq!((one.len(), other.len()), (width as usize, width as usize), "{name}");
    assert_ne!(one, other, "{name}");
    let both = map(image(7).chain(image(11)).collect());
    assert_eq!(both, [one, other].concat(), "{name}");
    assert!(model.map(&[1, 2]).is_err(), "{name}");
}

/// Whether models of millions of weights are to be run.
fn is_wanted(why_not: &str) -> bool {
    let is_wanted = std::env::var_os("HYPERION_FLOAT_LARGE").is_some();
    if !is_wanted {
        eprintln!("skipped: HYPERION_FLOAT_LARGE is not set ({why_not})");
    }
    is_wanted
}

#[test]
fn images_of_timm_become_classes_or_vectors() {
    for (architecture, side, classes, width) in
        [("convnext_atto", 32, 0, 320), ("mobilenetv4_conv_small", 32, 7, 7)]
    {
        looks(architecture, &timm(architecture, side, classes), width);
    }
}

#[test]
fn middling_models_of_timm_become_classes_or_vectors() {
    if !is_wanted("minutes without optimisation") {
        return;
    }
    for (architecture, side, classes, width) in [
        ("efficientvit_m0", 224, 7, 7),
        ("convnext_atto", 32, 7, 7),
        ("efficientnet_b0", 64, 7, 7),
        ("mobileone_s0", 32, 7, 7),
        ("repvgg_a0", 32, 7, 7),
        ("resnet18", 32, 7, 7),
        ("resnet18", 32, 0, 512),
    ] {
        looks(architecture, &timm(architecture, side, classes), width);
    }
}

#[test]
fn large_models_of_timm_become_classes() {
    if !is_wanted("candle has these in large sizes, of large images, only") {
        return;
    }
    for (architecture, side, classes, width) in [
        ("beit_base_patch16_384", 384, 0, 1000),
        ("convmixer_1024_20_ks9_p14", 224, 7, 7),
        ("eva02_base_patch14_448", 448, 0, 1000),
        ("vgg13", 224, 1000, 1000),
        ("vit_small_patch14_dinov2", 518, 0, 1000),
        ("vit_small_patch14_reg4_dinov2", 518, 0, 7806),
    ] {
        looks(architecture, &timm(architecture, side, classes), width);
    }
}

#[test]
fn images_of_hugging_face_become_classes_and_vectors() {
    let vision = |hidden_act: &str| {
        json!({
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_channels": 3, "image_size": 16, "patch_size": 4, "hidden_act": hidden_act,
            "projection_dim": 24, "layer_norm_eps": 1e-6, "qkv_bias": true, "torch_dtype": "float32",
        })
    };
    let with = |family: &str, hidden_act: &str, more: Value| {
        let mut config = vision(hidden_act);
        config["model_type"] = json!(family);
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        changed(family, 5, |all| *all = config)
    };
    looks("vit", &with("vit", "gelu", json!({"num_labels": 5})), 5);
    looks("clip_vision_model", &with("clip_vision_model", "quick_gelu", json!({})), 32);
    looks("siglip_vision_model", &with("siglip_vision_model", "gelu_pytorch_tanh", json!({})), 32);
    let whole = json!({"vision_config": vision("quick_gelu")});
    looks("clip", &with("clip", "quick_gelu", whole), 32);
    let whole = json!({"vision_config": vision("gelu_pytorch_tanh")});
    looks("siglip", &with("siglip", "gelu_pytorch_tanh", whole), 32);
    let segformer = json!({
        "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
        "patch_sizes": [3, 3], "strides": [2, 2], "num_attention_heads": [2, 4], "mlp_ratios": [2, 2],
        "decoder_hidden_size": 32, "num_labels": 5,
    });
    let mut classes = segformer.clone();
    classes["architectures"] = json!(["SegformerForImageClassification"]);
    looks("segformer", &with("segformer", "gelu", classes), 5);
    looks("segformer", &with("segformer", "gelu", segformer), 5 * 8 * 8);
}
