//! The four kinds of call, value, forwarded gas and quoted prices, through a contract.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_sol_types::{SolCall as _, SolError as _};
use common::{
    Chain, DRAWS_NOTHING, Key,
    artifact::{self, Probe},
    double::{self, DIGITS, ENCODER, image, text},
    infer, succeeded,
};
use hyperion_executor::precompile::{
    Run, Sampling,
    abi::{
        IClaims, IInference,
        InferenceErrors::{ModelNotFound, UnknownFunction, ValueNotAccepted},
    },
    address,
};
use hyperion_primitives::{Dtype, output_hash, tensor_root};

struct Setup {
    chain: Chain,
    key: Key,
    probe: Address,
}

impl Setup {
    fn new() -> Self {
        let (mut chain, mut key) = (Chain::new(), Key::new(1));
        let probe = chain.deploy(&mut key, artifact::probe());
        Self { chain, key, probe }
    }

    fn probe(
        &mut self,
        kind: u8,
        target: Address,
        gas: u64,
        value: u64,
        data: Vec<u8>,
    ) -> Probe::probeReturn {
        let call = Probe::probeCall {
            kind: U256::from(kind),
            target,
            gasLimit: U256::from(gas),
            value: U256::from(value),
            data: data.into(),
        };
        let tx = self.key.send(TxKind::Call(self.probe), value.into(), call.abi_encode());
        let outcome = self.chain.one(tx);
        Probe::probeCall::abi_decode_returns(&succeeded(&outcome)).unwrap()
    }
}

/// What the double says of an image, as a contract reads it.
fn expected(input: &[u8]) -> Vec<u8> {
    let run =
        Run { model: DIGITS, input: input.into(), sampling: Sampling::default(), seed: B256::ZERO };
    let output = double::output(&run);
    let root = tensor_root(Dtype::I32, &[1, 10], &output).unwrap();
    let returned =
        IInference::inferReturn { output: output.into(), outputHash: output_hash(&[root]) };
    IInference::inferCall::abi_encode_returns(&returned)
}

#[test]
fn every_kind_of_call_gives_the_same_bytes() {
    let mut setup = Setup::new();
    let pixels = image(4, 2);
    for kind in 0..4 {
        let got =
            setup.probe(kind, address::INFERENCE, 1_000_000, 0, infer(DIGITS.0, pixels.clone()));
        assert!(got.ok, "kind {kind}");
        assert_eq!(got.back, expected(&pixels), "kind {kind}");
        let hash = IInference::inferHashCall {
            modelId: DIGITS.0,
            input: pixels.clone().into(),
            sampling: DRAWS_NOTHING,
            seed: B256::ZERO,
        };
        let got = setup.probe(kind, address::INFERENCE, 1_000_000, 0, hash.abi_encode());
        assert_eq!(got.back, expected(&pixels)[32..64], "kind {kind}");
    }
}

#[test]
fn value_is_refused_and_comes_back() {
    let mut setup = Setup::new();
    for (kind, refused) in [(0, true), (1, true), (2, false), (3, false)] {
        let got = setup.probe(kind, address::INFERENCE, 1_000_000, 5, infer(DIGITS.0, image(4, 2)));
        assert_eq!(got.ok, !refused, "kind {kind}");
        if refused {
            let want = ValueNotAccepted { got: U256::from(5) }.abi_encode();
            assert_eq!(got.back, want, "kind {kind}");
        }
    }
    let held = setup.chain.state.load_account(address::INFERENCE).unwrap().info.balance;
    assert_eq!(held, U256::ZERO);
}

#[test]
fn a_refusal_is_typed_and_the_caller_keeps_its_gas() {
    let mut setup = Setup::new();
    let cases = [
        (
            "no model",
            address::INFERENCE,
            infer(B256::ZERO, image(1, 0)),
            ModelNotFound { modelId: B256::ZERO }.abi_encode(),
            // 3,000 and 3 for each of the 20 words.
            3_000 + 3 * 20,
        ),
        (
            "no function",
            address::CLAIMS,
            vec![1, 2, 3, 4],
            UnknownFunction { selector: [1, 2, 3, 4].into() }.abi_encode(),
            60,
        ),
        (
            "half a selector",
            address::VERIFY,
            vec![1, 2],
            UnknownFunction { selector: [1, 2, 0, 0].into() }.abi_encode(),
            60,
        ),
        (
            "what does not exist yet",
            address::ARBITRATE,
            0x4978_dfe4_u32.to_be_bytes().to_vec(),
            UnknownFunction { selector: 0x4978_dfe4_u32.to_be_bytes().into() }.abi_encode(),
            60,
        ),
    ];
    for (name, target, data, want, price) in cases {
        let got = setup.probe(0, target, 1_000_000, 0, data);
        assert!(!got.ok, "{name}");
        assert_eq!(got.back, want, "{name}");
        // The call itself is 100 gas, since a precompile is warm; pushing its arguments a little more.
        let used = got.used.to::<u64>();
        assert!((price + 100..price + 200).contains(&used), "{name}: {used}");
    }
}

#[test]
fn too_little_gas_consumes_what_was_sent_along_and_returns_nothing() {
    let mut setup = Setup::new();
    let price = quoted(&mut setup, DIGITS.0, 256).gasCost;
    let data = infer(DIGITS.0, image(4, 2));
    let short = setup.probe(0, address::INFERENCE, price - 1, 0, data.clone());
    assert_eq!((short.ok, short.back.len()), (false, 0));
    assert!(short.used.to::<u64>() >= price - 1);
    let enough = setup.probe(0, address::INFERENCE, price, 0, data);
    assert!(enough.ok);
    assert!((price + 100..price + 200).contains(&enough.used.to::<u64>()), "{}", enough.used);
}

fn quoted(
    setup: &mut Setup,
    model: B256,
    input_bytes: u64,
) -> hyperion_executor::precompile::abi::Quote {
    let call = IInference::quoteCall { modelId: model, inputBytes: input_bytes, tokensMax: 0 };
    let got = setup.probe(3, address::INFERENCE, 100_000, 0, call.abi_encode());
    IInference::quoteCall::abi_decode_returns(&got.back).unwrap()
}

/// What `quote` says is what is charged, to the gas: one less halts.
#[test]
fn the_charge_is_the_quote() {
    let mut setup = Setup::new();
    let cases = [
        (DIGITS.0, image(1, 0)),
        (DIGITS.0, [image(1, 0), image(2, 0)].concat()),
        (ENCODER.0, text(&[7])),
        (ENCODER.0, text(&[7; 5])),
        (ENCODER.0, text(&[7; 126])),
    ];
    for (model, input) in cases {
        let bytes = input.len() as u64;
        let quote = quoted(&mut setup, model, bytes);
        assert!(quote.fits);
        let short =
            setup.probe(0, address::INFERENCE, quote.gasCost - 1, 0, infer(model, input.clone()));
        let enough = setup.probe(0, address::INFERENCE, quote.gasCost, 0, infer(model, input));
        assert_eq!((short.ok, enough.ok), (false, true), "{bytes} bytes");
    }
}

/// A sentence of 128 tokens fits one transaction of OSAKA, whose cap is 16,777,216 gas.
#[test]
fn an_encoder_at_128_tokens_fits_a_transaction() {
    let mut setup = Setup::new();
    let quote = quoted(&mut setup, ENCODER.0, 128 * 4);
    assert_eq!(quote.macs, 10_616_832 * 128 + 4_608 * 128 * 128);
    assert!((2_000_000..2_600_000).contains(&quote.gasCost), "{}", quote.gasCost);
    assert!(quote.gasCost * 7 < 16_777_216);
    let got =
        setup.probe(0, address::INFERENCE, quote.gasCost, 0, infer(ENCODER.0, text(&[9; 126])));
    assert!(got.ok);
}

/// A caller keeps a 64th of its gas, so a transaction whose limit is the price alone cannot pay it through a contract.
#[test]
fn the_gas_seen_is_what_was_forwarded() {
    let mut setup = Setup::new();
    let price = quoted(&mut setup, ENCODER.0, 128 * 4).gasCost;
    let call = Probe::probeCall {
        kind: U256::ZERO,
        target: address::INFERENCE,
        gasLimit: U256::MAX,
        value: U256::ZERO,
        data: infer(ENCODER.0, text(&[9; 126])).into(),
    };
    let probe = TxKind::Call(setup.probe);
    // Beside the price: 21,000, calldata, and what the contract itself needs.
    let around = 60_000;
    let cases = [(price + around, false), ((price + around) * 65 / 63, true)];
    for (gas_limit, want) in cases {
        let tx = setup.key.send_with_gas(probe, 0, call.abi_encode(), gas_limit);
        let outcome = setup.chain.one(tx);
        let got = Probe::probeCall::abi_decode_returns(&succeeded(&outcome)).unwrap();
        assert_eq!(got.ok, want, "{gas_limit} gas");
    }
}

/// Delegating to a precompile runs the code at its address, which stops at once.
#[test]
fn the_code_at_a_precompile_is_a_stop() {
    use hyperion_executor::revm::database_interface::DatabaseRef as _;
    let setup = Setup::new();
    for address in [address::INFERENCE, address::CLAIMS, address::VERIFY, address::ARBITRATE] {
        let info = setup.chain.state.basic_ref(address).unwrap().unwrap();
        assert_eq!(info.nonce, 1);
        let code = setup.chain.state.code_by_hash_ref(info.code_hash).unwrap();
        assert_eq!(code.original_bytes(), Bytes::from_static(&[0]));
    }
}

#[test]
fn the_checkpoint_is_the_parents() {
    let mut setup = Setup::new();
    setup.chain.facts.checkpoint = hyperion_executor::precompile::Checkpoint {
        size: 9,
        root: B256::repeat_byte(4),
        height: 3,
    };
    let call = IClaims::checkpointCall {}.abi_encode();
    let got = setup.probe(3, address::CLAIMS, 10_000, 0, call);
    let got = IClaims::checkpointCall::abi_decode_returns(&got.back).unwrap();
    assert_eq!((got.size, got.root, got.height), (9, B256::repeat_byte(4), 3));
}
