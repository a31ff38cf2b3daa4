//! Families that turn images into classes, vectors or maps of classes.
//!
//! Rows are images of the size that the folder names (timm's `pretrained_cfg.input_size`) or that candle has built in,
//! channels first, normalised by the caller as the model's page says.

use candle_core::{Module as _, ModuleT as _};
use candle_nn::{Func, VarBuilder};
use candle_transformers::models::{
    beit, convmixer, convnext, dinov2, dinov2reg4, efficientnet, efficientvit, eva2, fastvit,
    hiera, mobilenetv4, mobileone, repvgg, resnet, segformer, vgg, vit,
};
use serde_json::Value;

use super::Family;
use crate::{FloatError, Net, Source};

/// Families of timm whose sizes candle has by name: a configuration for each, with a head and without one.
macro_rules! sized {
    ($module:ident, $side:literal, $whole:ident, $bare:ident, [$($name:literal => $size:ident),+ $(,)?]) => {
        Family {
            names: &[$($name),+],
            module: stringify!($module),
            load: |source| {
                let config = match source.text("architecture") {
                    $($name => $module::Config::$size(),)+
                    other => return Err(source.unsupported(format!("no size is called `{other}`"))),
                };
                let (weights, classes) = (source.weights(), source.classes());
                let model = match classes {
                    0 => $module::$bare(&config, weights)?,
                    classes => $module::$whole(&config, classes, weights)?,
                };
                Ok(whole(source, $side, model))
            },
        }
    };
}

/// Vision transformers whose input size and classes candle has built in.
macro_rules! fixed {
    ($module:ident, $side:literal, [$($name:literal => $new:ident),+ $(,)?]) => {
        Family {
            names: &[$($name),+],
            module: stringify!($module),
            load: |source| {
                let model = match source.text("architecture") {
                    $($name => $module::$new(source.weights())?,)+
                    other => return Err(source.unsupported(format!("no size is called `{other}`"))),
                };
                Ok(Net::maps([3, $side, $side], move |images| model.forward(images)))
            },
        }
    };
}

pub(super) const FAMILIES: &[Family] = &[
    fixed!(beit, 384, [
        "beit_base_patch16_384" => vit_base,
        "beit_large_patch16_384" => vit_large,
    ]),
    Family {
        names: &["convmixer_1024_20_ks9_p14", "convmixer_1536_20"],
        module: "convmixer",
        load: |source| {
            let new = match source.text("architecture") {
                "convmixer_1536_20" => convmixer::c1536_20,
                _ => convmixer::c1024_20,
            };
            // Its layers are numbered as timm's own model does not name them.
            let model = new(source.classes(), source.weights())?;
            Ok(whole(source, 224, model))
        },
    },
    sized!(convnext, 224, convnext, convnext_no_final_layer, [
        "convnext_atto" => atto, "convnext_femto" => femto, "convnext_pico" => pico,
        "convnext_nano" => nano, "convnext_tiny" => tiny, "convnext_small" => small,
        "convnext_base" => base, "convnext_large" => large, "convnext_xlarge" => xlarge,
        "convnextv2_atto" => atto, "convnextv2_femto" => femto, "convnextv2_pico" => pico,
        "convnextv2_nano" => nano, "convnextv2_tiny" => tiny, "convnextv2_base" => base,
        "convnextv2_large" => large, "convnextv2_huge" => huge,
    ]),
    fixed!(dinov2, 518, ["vit_small_patch14_dinov2" => vit_small]),
    fixed!(dinov2reg4, 518, [
        "vit_base_patch14_reg4_dinov2" => vit_base,
        "vit_small_patch14_reg4_dinov2" => vit_small,
    ]),
    Family {
        names: &[
            "efficientnet_b0",
            "efficientnet_b1",
            "efficientnet_b2",
            "efficientnet_b3",
            "efficientnet_b4",
            "efficientnet_b5",
            "efficientnet_b6",
            "efficientnet_b7",
        ],
        module: "efficientnet",
        load: |source| {
            use efficientnet::MBConvConfig as Config;
            let sizes = [
                Config::b0,
                Config::b1,
                Config::b2,
                Config::b3,
                Config::b4,
                Config::b5,
                Config::b6,
                Config::b7,
            ];
            let size =
                source.text("architecture").as_bytes().last().map_or(0, |digit| digit - b'0');
            let model = efficientnet::EfficientNet::new(
                source.weights(),
                sizes[usize::from(size % 8)](),
                source.classes(),
            )?;
            Ok(Net::maps(row(source, 224), move |images| model.forward(images)))
        },
    },
    sized!(efficientvit, 224, efficientvit, efficientvit_no_final_layer, [
        "efficientvit_m0" => m0, "efficientvit_m1" => m1, "efficientvit_m2" => m2,
        "efficientvit_m3" => m3, "efficientvit_m4" => m4, "efficientvit_m5" => m5,
    ]),
    fixed!(eva2, 448, [
        "eva02_base_patch14_448" => vit_base,
        "eva02_large_patch14_448" => vit_large,
    ]),
    sized!(fastvit, 256, fastvit, fastvit_no_final_layer, [
        "fastvit_t8" => t8, "fastvit_t12" => t12, "fastvit_s12" => s12, "fastvit_sa12" => sa12,
        "fastvit_sa24" => sa24, "fastvit_sa36" => sa36, "fastvit_ma36" => ma36,
    ]),
    sized!(hiera, 224, hiera, hiera_no_final_layer, [
        "hiera_tiny_224" => tiny, "hiera_small_224" => small, "hiera_base_224" => base,
        "hiera_base_plus_224" => base_plus, "hiera_large_224" => large, "hiera_huge_224" => huge,
    ]),
    sized!(mobilenetv4, 256, mobilenetv4, mobilenetv4_no_final_layer, [
        "mobilenetv4_conv_small" => small, "mobilenetv4_conv_medium" => medium,
        "mobilenetv4_conv_large" => large, "mobilenetv4_hybrid_medium" => hybrid_medium,
        "mobilenetv4_hybrid_large" => hybrid_large,
    ]),
    sized!(mobileone, 224, mobileone, mobileone_no_final_layer, [
        "mobileone_s0" => s0, "mobileone_s1" => s1, "mobileone_s2" => s2, "mobileone_s3" => s3,
        "mobileone_s4" => s4,
    ]),
    sized!(repvgg, 224, repvgg, repvgg_no_final_layer, [
        "repvgg_a0" => a0, "repvgg_a1" => a1, "repvgg_a2" => a2, "repvgg_b0" => b0,
        "repvgg_b1" => b1, "repvgg_b2" => b2, "repvgg_b3" => b3, "repvgg_b1g4" => b1g4,
        "repvgg_b2g4" => b2g4, "repvgg_b3g4" => b3g4,
    ]),
    Family {
        names: &["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"],
        module: "resnet",
        load: resnet,
    },
    Family { names: &["segformer"], module: "segformer", load: segformer },
    Family { names: &["vgg13", "vgg16", "vgg19"], module: "vgg", load: vgg },
    Family { names: &["vit"], module: "vit", load: vit },
];

/// Shape of an image: what the folder names, or a square of this side.
fn row(source: &Source<'_>, side: usize) -> Vec<usize> {
    let stated = source.part::<Value>("pretrained_cfg").ok();
    let size =
        stated.as_ref().and_then(|stated| stated.get("input_size")).and_then(Value::as_array);
    let size = size.map(|size| size.iter().filter_map(Value::as_u64));
    let size: Option<Vec<usize>> =
        size.map(|size| size.filter_map(|n| usize::try_from(n).ok()).collect());
    size.filter(|size| size.len() == 3).unwrap_or_else(|| vec![3, side, side])
}

fn whole(source: &Source<'_>, side: usize, model: Func<'static>) -> Net {
    Net::maps(row(source, side), move |images| model.forward(images))
}

fn resnet(source: &Source<'_>) -> Result<Net, FloatError> {
    type Whole = fn(usize, VarBuilder<'static>) -> candle_core::Result<Func<'static>>;
    type Bare = fn(VarBuilder<'static>) -> candle_core::Result<Func<'static>>;
    let (whole_of, bare_of): (Whole, Bare) = match source.text("architecture") {
        "resnet18" => (resnet::resnet18, resnet::resnet18_no_final_layer),
        "resnet34" => (resnet::resnet34, resnet::resnet34_no_final_layer),
        "resnet50" => (resnet::resnet50, resnet::resnet50_no_final_layer),
        "resnet101" => (resnet::resnet101, resnet::resnet101_no_final_layer),
        _ => (resnet::resnet152, resnet::resnet152_no_final_layer),
    };
    let model = match source.classes() {
        0 => bare_of(source.weights())?,
        classes => whole_of(classes, source.weights())?,
    };
    Ok(whole(source, 224, model))
}

fn segformer(source: &Source<'_>) -> Result<Net, FloatError> {
    let (config, classes): (segformer::Config, _) = (source.config()?, source.classes());
    let side = source.number("image_size").unwrap_or(512);
    let row = [config.num_channels, side, side];
    if source.is_class("SegformerForImageClassification") {
        let model = segformer::ImageClassificationModel::new(&config, classes, source.weights())?;
        return Ok(Net::maps(row, move |images| model.forward(images)));
    }
    let model = segformer::SemanticSegmentationModel::new(&config, classes, source.weights())?;
    Ok(Net::maps(row, move |images| model.forward(images)))
}

fn vgg(source: &Source<'_>) -> Result<Net, FloatError> {
    let size = match source.text("architecture") {
        "vgg13" => vgg::Models::Vgg13,
        "vgg16" => vgg::Models::Vgg16,
        _ => vgg::Models::Vgg19,
    };
    let model = vgg::Vgg::new(source.weights(), size)?;
    // It takes an image without a dimension for more.
    Ok(Net::maps([3, 224, 224], move |images| model.forward_t(&images.squeeze(0)?, false)))
}

fn vit(source: &Source<'_>) -> Result<Net, FloatError> {
    let config: vit::Config = source.config()?;
    let row = [config.num_channels, config.image_size, config.image_size];
    // Two classes where the file leaves them out, as Hugging Face counts.
    let classes = match source.classes() {
        0 => 2,
        classes => classes,
    };
    let model = vit::Model::new(&config, classes, source.weights())?;
    Ok(Net::maps(row, move |images| model.forward(images)))
}
