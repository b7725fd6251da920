//! The scripts: each is one step, done as a whole or not at all.

/// Moves lists of staged entries to their streams. An entry is an array: the place of the id, then the words behind `XADD`.
/// A time that is not above the newest id gets the server's clock instead: the epoch is decided, so nothing may be refused.
const MOVE: &str = "local function check(first, last) \
    for i = first, last do local kind = redis.call('TYPE', KEYS[i]).ok \
    if kind ~= 'none' and kind ~= 'stream' then return KEYS[i] end end end \
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

/// Answers unless we are the owner. A key that is gone is no newer owner: the server was emptied, or has dropped it.
const OWNED: &str = "local owner = redis.call('GET', KEYS[1]) \
    if not owner then return redis.error_reply('NOOWNER ' .. KEYS[1]) end \
    if owner ~= ARGV[1] then return redis.error_reply('FENCED by another runner') end ";

/// Keys: list, marker, streams. Argument: epoch.
const COMMIT: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then \
    local marker = redis.call('GET', KEYS[2]) \
    if marker and tonumber(marker) >= tonumber(ARGV[1]) then return 0 end \
    return redis.error_reply('STATEMISMATCH nothing is staged') end \
    local wrong = check(3, #KEYS) \
    if wrong then return redis.error_reply('WRONGTYPE ' .. wrong .. ' is no stream') end \
    move(KEYS[1]) \
    redis.call('SET', KEYS[2], ARGV[1]) \
    return 1";

/// Keys: owner, checkpoint, lists of entries, lists of acknowledgements, streams. All are named, so that a slot that is on its
/// way stops the script before it begins. Arguments: our token, the checkpoint, how many lists there are of either kind, and
/// acknowledgements. Those are packed arrays of member, key, group and ascending ids. All that is checked comes before the first
/// effect: another member may have claimed what we read, and have written it too.
const HOST: &str = "local lists = 2 + tonumber(ARGV[3]) \
    local acks = lists + tonumber(ARGV[4]) \
    for i = 3, acks do if redis.call('EXISTS', KEYS[i]) == 0 then return redis.error_reply('LOST ' .. KEYS[i]) end end \
    local wrong = check(acks + 1, #KEYS) \
    if wrong then return redis.error_reply('WRONGTYPE ' .. wrong .. ' is no stream') end \
    local function each(act) \
    for i = 5, #ARGV do act(cmsgpack.unpack(ARGV[i])) end \
    for i = lists + 1, acks do \
    for from = 0, redis.call('LLEN', KEYS[i]) - 1, 10 do \
    for _, packed in ipairs(redis.call('LRANGE', KEYS[i], from, from + 9)) do act(cmsgpack.unpack(packed)) end end end end \
    local function pending(ack) \
    local at, from = 4, ack[4] \
    repeat \
    local page = redis.call('XPENDING', ack[2], ack[3], from, ack[#ack], 1000, ack[1]) \
    for _, entry in ipairs(page) do if entry[1] == ack[at] then at = at + 1 end end \
    from = #page == 1000 and '(' .. page[1000][1] \
    until at > #ack or not from \
    return at > #ack end \
    local foreign \
    each(function(ack) if not foreign and not pending(ack) then foreign = ack[2] end end) \
    if foreign then return redis.error_reply('NOTOURS ' .. foreign) end \
    for i = 3, lists do move(KEYS[i]) end \
    each(function(ack) redis.call('XACK', unpack(ack, 2)) end) \
    for i = lists + 1, acks do redis.call('DEL', KEYS[i]) end \
    redis.call('SET', KEYS[2], ARGV[2]) \
    return 1";

/// Keys: owner, checkpoint, staged acknowledgements. Argument: our token.
pub(super) const FENCE: &str = "redis.call('SET', KEYS[1], ARGV[1]) \
    redis.call('DEL', KEYS[3]) \
    return redis.call('GET', KEYS[2])";

/// Keys: owner, checkpoint, staged acknowledgements. Arguments: our token, and more of them.
const STAGE: &str = "for i = 2, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end \
    return #ARGV";

/// Keys: owner, checkpoint. Argument: our token.
const FORGET: &str = "return redis.call('DEL', KEYS[2])";

/// The script that makes what was prepared count.
pub(super) fn commit() -> String {
    format!("{MOVE}{COMMIT}")
}

/// The script of a host's transaction.
pub(super) fn host() -> String {
    format!("{OWNED}{MOVE}{HOST}")
}

/// The script that stages acknowledgements.
pub(super) fn stage() -> String {
    format!("{OWNED}{STAGE}")
}

/// The script that deletes the checkpoint.
pub(super) fn forget() -> String {
    format!("{OWNED}{FORGET}")
}
