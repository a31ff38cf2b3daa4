// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;
import {IInference, INFERENCE, Sampling} from "../IInference.sol";
import {Hyperion} from "../Hyperion.sol";

/// @title Has a language model go on with a text inside the transaction, and keeps what it wrote.
/// @notice The model is fixed by its id, hence by its weights and its tokenizer: every node writes the same, for ever. Texts
/// are token ids, u32 little-endian; no chain can tokenize, so whoever asks does it, and whoever reads turns ids back
/// into words.
contract Teller {
    /// The language model.
    bytes32 public immutable modelId;
    /// The token with which it says that it has ended.
    uint32 public immutable endId;

    /// How many texts were told.
    uint256 public told;
    /// What was told under a number; numbers begin at 1.
    mapping(uint256 number => bytes tokens) public textOf;

    /// `asker` had the model go on with `prompt`.
    event Told(address indexed asker, uint256 indexed number, bytes prompt, bytes text);

    constructor(bytes32 modelId_, uint32 endId_) {
        modelId = modelId_;
        endId = endId_;
    }

    /// Keeps the likeliest text after a prompt.
    /// @param tokens the most that the text may have, and what is paid for
    /// @return number under which the text is kept
    function tell(bytes calldata prompt, uint32 tokens) external returns (uint256 number) {
        bytes memory text = goOn(prompt, tokens, 0, 0);
        number = ++told;
        textOf[number] = text;
        emit Told(msg.sender, number, prompt, text);
    }

    /// A text after a prompt, up to where the model ends it.
    /// @param temperatureQ16 0 for the likeliest token each time, 65536 for as likely as the model says
    /// @param seed of the draws, zero at temperature 0
    /// @return the token ids, without the end's
    function goOn(bytes calldata prompt, uint32 tokens, uint32 temperatureQ16, bytes32 seed)
        public
        view
        returns (bytes memory)
    {
        Sampling memory how;
        how.temperatureQ16 = temperatureQ16;
        how.topPQ16 = 1 << 16; // the whole vocabulary
        how.tokensMax = tokens;
        (bytes memory text,) = IInference(INFERENCE).infer(modelId, prompt, how, seed);
        return Hyperion.before(text, endId);
    }
}
