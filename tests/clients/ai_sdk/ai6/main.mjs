import * as ai from 'ai';
import { createGateway } from '@ai-sdk/gateway';

import { run } from '../client.mjs';

await run(ai, createGateway);
