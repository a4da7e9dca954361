-- The mix of the tasks benchmark: 65 % lists, 25 % single tasks, 10 % new ones. IDS is a file of ids.
local ids = {}
for line in io.lines(os.getenv("IDS")) do
  ids[#ids + 1] = line
end

local seeded = 0
function setup(thread)
  seeded = seeded + 1
  thread:set("seed", seeded)
end

function init()
  math.randomseed(seed)
end

local json = { ["Content-Type"] = "application/json" }
function request()
  local draw = math.random(100)
  if draw <= 65 then
    return wrk.format("GET", "/tasks?page=" .. math.random(5) .. "&limit=20")
  elseif draw <= 90 then
    return wrk.format("GET", "/tasks/" .. ids[math.random(#ids)])
  end
  return wrk.format("POST", "/tasks", json, '{"title":"From the benchmark","priority":2}')
end

function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("requests %d us %d failed %d\n", summary.requests, summary.duration, failed))
end
