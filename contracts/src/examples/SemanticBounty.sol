// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;
import {IInference, INFERENCE, Sampling} from "../IInference.sol";
import {Hyperion} from "../Hyperion.sol";

/// @title Pays the first answer whose meaning is near enough to the question's.
/// @notice Texts come as token ids, because no chain can tokenize: the ids in calldata *are* the question and the answer.
/// An embedding model, fixed by its id, turns both into unit vectors inside the transaction, and their cosine decides.
///
/// What stops a cheat:
/// - The asker cannot move the goal. Question, both bounds, reward and deadline are fixed when the bounty is made, and the
///   reward cannot leave before the deadline but to an answer.
/// - Nobody can copy an answer out of a pending transaction. An answer is committed to, bound to its sender, at least one
///   block before it is shown.
/// - Repeating the question is no answer: its cosine is above the ceiling.
/// - Embeddings are not handed in. They are computed here, or were and are known by their hash.
///
/// What does not: nearness is not truth. Words picked to be near are near. Choose bounds, and a reward, that a stranger
/// may earn with a sentence that only sounds right.
contract SemanticBounty {
    struct Bounty {
        address asker;
        uint64 deadline; // unix seconds; answers until then, the rest goes back after it
        bool open;
        uint128 reward; // wei
        int32 floorQ15; // cosines in Q15: 32768 is 1
        int32 ceilingQ15;
        bytes32 embeddingHash; // keccak-256 of the question's embedding
    }

    /// The embedding model: token ids in, one unit vector of i16 in Q15 out.
    bytes32 public immutable modelId;
    /// The tokens that a text begins and ends with, 101 and 102 for BERT's vocabulary.
    uint32 public immutable firstToken;
    uint32 public immutable lastToken;

    /// Bounties made so far; ids begin at 1.
    uint256 public count;
    mapping(uint256 id => Bounty) public bounties;
    /// The block in which a commitment was made; zero if it was not.
    mapping(bytes32 commitment => uint256 blockNumber) public committedAt;
    /// What someone may withdraw, in wei.
    mapping(address account => uint256 amount) public owed;

    /// A bounty was made; `tokens` is the question and `embedding` what answers are compared with.
    event Asked(uint256 indexed id, address indexed asker, uint256 reward, bytes tokens, bytes embedding);
    event Committed(bytes32 indexed commitment, address indexed answerer);
    event Answered(uint256 indexed id, address indexed answerer, int256 cosineQ15, bytes tokens);
    event Reclaimed(uint256 indexed id, uint256 reward);
    event Withdrawn(address indexed account, uint256 amount);

    error NoReward();
    error RewardTooLarge(uint256 got, uint256 max);
    error BoundsInvalid(int32 floorQ15, int32 ceilingQ15);
    error DeadlinePassed(uint64 deadline, uint256 time);
    error DeadlineNotPassed(uint64 deadline, uint256 time);
    error NotOpen(uint256 id);
    error NotYours(uint256 id, address asker);
    error NotAText(uint256 gotBytes);
    error AlreadyCommitted(bytes32 commitment);
    error NotCommitted(bytes32 commitment);
    error CommittedInThisBlock(bytes32 commitment);
    error WrongEmbedding(bytes32 got, bytes32 want);
    error TooFar(int256 cosineQ15, int256 floorQ15);
    error TooNear(int256 cosineQ15, int256 ceilingQ15);
    error NothingOwed(address account);
    error TransferFailed(address account, uint256 amount);

    constructor(bytes32 modelId_, uint32 firstToken_, uint32 lastToken_) {
        modelId = modelId_;
        firstToken = firstToken_;
        lastToken = lastToken_;
    }

    /// Makes a bounty out of the value sent.
    /// @param tokens the question: little-endian u32 token ids, first and last token included
    /// @param floorQ15 least cosine that is paid
    /// @param ceilingQ15 greatest cosine that is paid, below 32768
    /// @return id never zero
    function ask(bytes calldata tokens, int32 floorQ15, int32 ceilingQ15, uint64 deadline)
        external
        payable
        returns (uint256 id)
    {
        if (msg.value == 0) revert NoReward();
        if (msg.value > type(uint128).max) revert RewardTooLarge(msg.value, type(uint128).max);
        if (floorQ15 < 1 || ceilingQ15 < floorQ15 || ceilingQ15 >= 32768) revert BoundsInvalid(floorQ15, ceilingQ15);
        if (deadline <= block.timestamp) revert DeadlinePassed(deadline, block.timestamp);
        bytes memory embedding = embed(tokens);
        id = ++count;
        bounties[id] = Bounty({
            asker: msg.sender,
            deadline: deadline,
            open: true,
            reward: uint128(msg.value),
            floorQ15: floorQ15,
            ceilingQ15: ceilingQ15,
            embeddingHash: keccak256(embedding)
        });
        emit Asked(id, msg.sender, msg.value, tokens, embedding);
    }

    /// Commits to an answer. Show it with `answer` in a later block.
    function commit(bytes32 commitment) external {
        if (committedAt[commitment] != 0) revert AlreadyCommitted(commitment);
        committedAt[commitment] = block.number;
        emit Committed(commitment, msg.sender);
    }

    /// What to commit to. `salt` keeps the answer secret until it is shown; draw it at random.
    function commitmentOf(uint256 id, address answerer, bytes calldata tokens, bytes32 salt)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(id, answerer, keccak256(tokens), salt));
    }

    /// Shows an answer and, if its meaning lies between the bounds, earns the reward.
    /// @param tokens the answer: little-endian u32 token ids, first and last token included
    /// @param salt what the commitment was made with
    /// @param embedding the question's, as `Asked` gave it
    function answer(uint256 id, bytes calldata tokens, bytes32 salt, bytes calldata embedding) external {
        Bounty storage bounty = bounties[id];
        if (!bounty.open) revert NotOpen(id);
        if (block.timestamp > bounty.deadline) revert DeadlinePassed(bounty.deadline, block.timestamp);
        bytes32 commitment = commitmentOf(id, msg.sender, tokens, salt);
        uint256 since = committedAt[commitment];
        if (since == 0) revert NotCommitted(commitment);
        if (since == block.number) revert CommittedInThisBlock(commitment);
        bytes32 got = keccak256(embedding);
        if (got != bounty.embeddingHash) revert WrongEmbedding(got, bounty.embeddingHash);

        int256 cosine = cosineQ15(tokens, embedding);
        if (cosine < bounty.floorQ15) revert TooFar(cosine, bounty.floorQ15);
        if (cosine > bounty.ceilingQ15) revert TooNear(cosine, bounty.ceilingQ15);

        bounty.open = false;
        owed[msg.sender] += bounty.reward;
        emit Answered(id, msg.sender, cosine, tokens);
    }

    /// Takes an unanswered bounty back once its deadline has passed.
    function reclaim(uint256 id) external {
        Bounty storage bounty = bounties[id];
        if (!bounty.open) revert NotOpen(id);
        if (bounty.asker != msg.sender) revert NotYours(id, bounty.asker);
        if (block.timestamp <= bounty.deadline) revert DeadlineNotPassed(bounty.deadline, block.timestamp);
        bounty.open = false;
        owed[msg.sender] += bounty.reward;
        emit Reclaimed(id, bounty.reward);
    }

    /// Sends the caller what it is owed. Nothing is left to take again when the transfer runs.
    function withdraw() external {
        uint256 amount = owed[msg.sender];
        if (amount == 0) revert NothingOwed(msg.sender);
        owed[msg.sender] = 0;
        emit Withdrawn(msg.sender, amount);
        (bool sent,) = msg.sender.call{value: amount}("");
        if (!sent) revert TransferFailed(msg.sender, amount);
    }

    /// Cosine of an answer and a question's embedding, for trying an answer without sending it.
    /// @return Q15, 32768 for the same meaning
    function cosineQ15(bytes calldata tokens, bytes calldata embedding) public view returns (int256) {
        return Hyperion.cosineQ15(embed(tokens), embedding);
    }

    /// The unit vector of a text, i16 in Q15, little-endian.
    function embed(bytes calldata tokens) public view returns (bytes memory embedding) {
        // At least one token between the two that frame a text.
        if (
            tokens.length < 12 || tokens.length % 4 != 0 || bytes4(tokens[:4]) != _littleEndian(firstToken)
                || bytes4(tokens[tokens.length - 4:]) != _littleEndian(lastToken)
        ) revert NotAText(tokens.length);
        Sampling memory none; // embedding models sample nothing
        (embedding,) = IInference(INFERENCE).infer(modelId, tokens, none, 0);
    }

    function _littleEndian(uint32 token) private pure returns (bytes4) {
        return bytes4((token << 24) | ((token & 0xff00) << 8) | ((token >> 8) & 0xff00) | (token >> 24));
    }
}
