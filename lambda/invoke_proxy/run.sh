#!/bin/sh
# Starts the web app behind the Lambda Web Adapter, which calls this as the function's handler.
: "${MODELZONE_REGISTRY_PATH:?set it to the SSM path of the deployments, as in /modelzone/dev/deployments}"
: "${MODELZONE_GATEWAY_PATH:?set it to the SSM path of the gateway, as in /modelzone/dev/gateway}"
cd "$(dirname "$0")" || exit 1
exec python3 -m uvicorn invoke_proxy.app:app \
    --host 127.0.0.1 --port "${AWS_LWA_PORT:-8080}" \
    --loop asyncio --http invoke_proxy.server:Protocol --ws none --interface asgi3 --lifespan on \
    --no-proxy-headers --no-access-log --no-server-header --log-level warning
