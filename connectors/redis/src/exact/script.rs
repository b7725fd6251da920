//! The scripts: each is one step, done as a whole or not at all.

/// Moves lists of staged entries to their streams. An entry is an array: the place of the id, then the words behind `XADD`.
/// A time that is not above the newest id gets the server's clock instead: the epoch is decided, so nothing may be refused.
const MOVE: &str = "local function check(keys, first) \
    for i = first, #keys do local kind = redis.call('TYPE', keys[i]).ok \
    if kind ~= 'none' and kind ~= 'stream' then return keys[i] end end end \
    local function move(list) \
    local from, len = 0, redis.call('LLEN', list) \
    while from < len do \
    for _, packed in ipairs(redis.call('LRANGE', list, from, from + 999)) do \
    local words = cmsgpack.unpack(packed) \
    local at = tonumber(table.remove(words, 1)) \
    local done = redis.pcall('XADD', unpack(words)) \
    if type(done) == 'table' and done.err then words[at] = '*' redis.call('XADD', unpack(words)) end \
    end \
    from = from + 1000 \
    end \
    redis.call('DEL', list) \
    end ";

/// Keys: list, marker, streams. Argument: epoch.
const COMMIT: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then \
    local marker = redis.call('GET', KEYS[2]) \
    if marker and tonumber(marker) >= tonumber(ARGV[1]) then return 0 end \
    return redis.error_reply('STATEMISMATCH nothing is staged') end \
    local wrong = check(KEYS, 3) \
    if wrong then return redis.error_reply('WRONGTYPE ' .. wrong .. ' is no stream') end \
    move(KEYS[1]) \
    redis.call('SET', KEYS[2], ARGV[1]) \
    return 1";

/// Keys: owner, checkpoint. Arguments: our token, the checkpoint, and packed: lists, streams, acknowledgements, each of which
/// is an array of key, group and ids.
const HOST: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED by another runner') end \
    local plan = cmsgpack.unpack(ARGV[3]) \
    local wrong = check(plan[2], 1) \
    if wrong then return redis.error_reply('WRONGTYPE ' .. wrong .. ' is no stream') end \
    for _, list in ipairs(plan[1]) do move(list) end \
    for _, ack in ipairs(plan[3]) do \
    for i = 3, #ack, 1000 do \
    redis.call('XACK', ack[1], ack[2], unpack(ack, i, math.min(i + 999, #ack))) end end \
    redis.call('SET', KEYS[2], ARGV[2]) \
    return 1";

/// Keys: owner, checkpoint. Argument: our token.
pub(super) const FENCE: &str = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[2])";

/// Keys: owner, checkpoint. Argument: our token.
pub(super) const FORGET: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then \
    return redis.error_reply('FENCED by another runner') end \
    return redis.call('DEL', KEYS[2])";

/// The script that makes what was prepared count.
pub(super) fn commit() -> String {
    format!("{MOVE}{COMMIT}")
}

/// The script of a host's transaction.
pub(super) fn host() -> String {
    format!("{MOVE}{HOST}")
}
