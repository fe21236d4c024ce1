-- Posts the bodies in $BENCH_BODIES, one a line, in rotation, and prints what wrk measured as one line of JSON.
local bodies = {}
local headers = { ["Content-Type"] = "application/json" }
local requests = {}
local at = 0

function init(args)
  for line in io.lines(os.getenv("BENCH_BODIES")) do
    bodies[#bodies + 1] = line
  end
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  local line = '{"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "max_ms": %.4f, '
    .. '"status_errors": %d, "socket_errors": %d}\n'
  io.write(string.format(line, summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000,
    latency:percentile(99) / 1000, latency.max / 1000, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
