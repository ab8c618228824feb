"""A proxy that makes a small model's first answer a call: for clients that are run by hand.

Usage: forcing_proxy.py SERVER PORT TOOL. Requests with tools and without a call's result get a
`tool_choice` that names TOOL, in the dialect of their path; everything else goes through as it is.
"""

import http.server
import json
import sys
import urllib.error
import urllib.request

SERVER, PORT, TOOL = sys.argv[1], int(sys.argv[2]), sys.argv[3]
RESULTS = ("function_call_output", '"role": "tool"', '"tool_result"')
PASSED_ON = ("accept", "anthropic-version", "authorization", "content-type", "x-api-key")
CHOICES = {
    "/v1/messages": {"type": "tool", "name": TOOL},
    "/v1/responses": {"type": "function", "name": TOOL},
    "/v1/chat/completions": {"type": "function", "function": {"name": TOOL}},
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.forward(None)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        choice = CHOICES.get(self.path.split("?")[0])
        if choice and body.get("tools") and not any(mark in json.dumps(body) for mark in RESULTS):
            body["tool_choice"] = choice
        self.forward(json.dumps(body).encode())

    def forward(self, body):
        headers = {name: value for name, value in self.headers.items() if name.lower() in PASSED_ON}
        try:
            answer = urllib.request.urlopen(urllib.request.Request(SERVER + self.path, body, headers))
        except urllib.error.HTTPError as error:
            answer = error
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers["content-type"])
        self.end_headers()
        while piece := answer.read1(65536):
            self.wfile.write(piece)
            self.wfile.flush()


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
